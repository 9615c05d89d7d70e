"""The offline demo and its painted canvases."""
