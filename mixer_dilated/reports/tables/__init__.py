"""Tables printed in the terminal, 80 columns wide."""
