"""The command line: thin verbs over the services. Each verb imports the rooms it needs when it runs."""
