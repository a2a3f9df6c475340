//! A profile as OpenTelemetry messages.

mod settings;

pub use settings::ResourceSettings;
