"""Tables, JSON and pages made from a compiled model and its traces."""
