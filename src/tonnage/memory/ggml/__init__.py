"""What llama.cpp makes of a model: its graph, its scheduler and allocator, its buffers by device."""
