"""The console: server-rendered pages for operators in a browser."""
