"""Random requests for the router: how they are made, and sent."""
