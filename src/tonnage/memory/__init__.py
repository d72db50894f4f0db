"""What fills a device: one module for each thing."""
