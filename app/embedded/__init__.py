"""The whole product on one machine: starts its parts as processes, watches over them and leaves none behind."""
