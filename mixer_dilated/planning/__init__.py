"""What a config asks of devices that are not there: memory, work, communication and time."""
