//! Conformance check of OpenTelemetry profiles.
