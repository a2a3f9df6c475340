//! otlp (being written)
