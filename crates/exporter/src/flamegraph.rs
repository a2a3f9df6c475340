//! flamegraph (being written)
