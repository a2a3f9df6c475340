//! delivery (being written)
