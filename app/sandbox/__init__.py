"""The stand-in cloud: its HTTP gateway, its tokens and its MQTT broker, wire-compatible."""
