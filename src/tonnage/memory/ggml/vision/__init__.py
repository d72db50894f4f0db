"""The projector of pictures that llama.cpp loads beside a model (``--mmproj``)."""
