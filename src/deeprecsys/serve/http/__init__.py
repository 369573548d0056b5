"""HTTP: server, connections, bodies, application."""
