"""State, optimizer, compiled steps and the loop."""
