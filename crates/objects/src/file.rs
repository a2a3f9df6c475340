//! A target file behind its descriptor.
