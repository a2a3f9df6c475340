//! folded (being written)
