"""Generated scenes as a corpus: their layout, the drawing, and the photographs inside them."""
