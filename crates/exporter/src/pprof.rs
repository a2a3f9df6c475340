//! pprof (being written)
