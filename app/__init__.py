"""Hands MQTT devices short-lived, topic-scoped tokens over HTTPS, and takes them back."""

__version__ = "0.1.0"
