//! From settings to the exporter's own: where profiles and metrics are pushed.

use std::sync::Arc;

use exporter::delivery::{Compression, Delivery, DeliverySettings, Endpoint, OtlpSettings, Protocol};
use exporter::metrics::{Metrics, Push, PushSettings};
use exporter::otlp::ResourceSettings;
use profile::Ledger;
use tokio::runtime::Handle;

use crate::config::NODE_NAME;
use crate::config::settings::{self, Otlp, Settings};
use crate::host::Host;

/// `service.name` of the profiler's own metrics, unless configured.
const OWN_SERVICE_NAME: &str = "profiler";

fn connection(otlp: &Otlp) -> OtlpSettings {
    let protocol = match otlp.protocol {
        settings::Protocol::Grpc => Protocol::Grpc,
        settings::Protocol::HttpProtobuf => Protocol::HttpProtobuf,
    };
    let (client_certificate, client_key) = otlp.client.clone().unzip();
    OtlpSettings {
        headers: otlp.headers.0.clone(),
        timeout: otlp.timeout,
        compression: if otlp.gzip { Compression::Gzip } else { Compression::None },
        ca: otlp.ca.clone(),
        client_certificate,
        client_key,
        // The endpoint has a scheme by now.
        ..OtlpSettings::new(Endpoint::Exact(otlp.endpoint.clone()), protocol)
    }
}

/// Starts pushing profiles. An absent receiver is not an error.
///
/// # Errors
/// Settings that can never work.
pub(crate) fn profiles(
    otlp: &Otlp,
    settings: &Settings,
    host: &Host,
    ledger: Arc<Ledger>,
    runtime: &Handle,
) -> anyhow::Result<Delivery> {
    let mut attributes = Vec::new();
    if !host.os_description.is_empty() {
        attributes.push(("os.description".to_owned(), host.os_description.clone()));
    }
    attributes.extend(node(settings));
    attributes.extend(settings.resource.attributes.iter().cloned());
    let resource = ResourceSettings {
        host_name: host.name.clone(),
        host_id: host.id.clone(),
        host_arch: host.arch.clone(),
        os_type: host.os_type.clone(),
        os_version: host.os_version.clone(),
        attributes,
        service_name: settings.export.service_name.clone(),
        include_pid: settings.export.pid,
        original_payload: settings.export.payload,
        per_sample_attributes: settings.export.sample_attributes,
        max_attributes: settings.export.max_attributes,
        verbatim_keys: settings.identity.verbatim_keys,
    };
    let delivery = DeliverySettings {
        interval: settings.export.interval,
        queue_bytes: bytes(settings.export.queue_bytes),
        max_request_bytes: bytes(settings.export.max_request_bytes),
        ..DeliverySettings::default()
    };
    Ok(Delivery::start(connection(otlp), resource, delivery, ledger, runtime)?)
}

/// The node, unless the configured attributes name it: then they do it alone.
fn node(settings: &Settings) -> Option<(String, String)> {
    let configured = settings.resource.attributes.iter().any(|(key, _)| key == NODE_NAME);
    let name = settings.identity.node_name.clone().filter(|_| !configured)?;
    Some((NODE_NAME.to_owned(), name))
}

fn bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Starts pushing the profiler's own metrics. An absent receiver is not an error.
///
/// # Errors
/// Settings that can never work.
pub(crate) fn metrics(
    otlp: &Otlp,
    settings: &Settings,
    host: &Host,
    metrics: &Metrics,
    runtime: &Handle,
) -> anyhow::Result<Push> {
    let name = settings.resource.service_name.clone().unwrap_or_else(|| OWN_SERVICE_NAME.to_owned());
    let mut resource =
        vec![("service.name".to_owned(), name), ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    let found = [
        ("host.name", &host.name),
        ("host.id", &host.id),
        ("host.arch", &host.arch),
        ("os.type", &host.os_type),
        ("os.version", &host.os_version),
        ("os.description", &host.os_description),
    ];
    resource.extend(found.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), v.clone())));
    resource.extend(node(settings));
    for (name, value) in &settings.resource.attributes {
        resource.retain(|(n, _)| n != name);
        resource.push((name.clone(), value.clone()));
    }
    let push = PushSettings { otlp: connection(otlp), interval: settings.metrics.interval, resource };
    Ok(metrics.push(push, runtime)?)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::config::settings::Headers;

    #[test]
    fn the_node_is_named_once() {
        let mut settings = Settings::default();
        assert_eq!(node(&settings), None);
        settings.identity.node_name = Some("n1".to_owned());
        assert_eq!(node(&settings), Some((NODE_NAME.to_owned(), "n1".to_owned())));
        settings.resource.attributes = vec![(NODE_NAME.to_owned(), "n2".to_owned())];
        assert_eq!(node(&settings), None);
    }

    #[test]
    fn every_piece_of_a_connection_arrives() {
        let otlp = Otlp {
            endpoint: "https://h:4317".to_owned(),
            protocol: settings::Protocol::Grpc,
            headers: Headers(vec![("a".to_owned(), "b".to_owned())]),
            timeout: Duration::from_secs(3),
            gzip: true,
            ca: Some(PathBuf::from("/ca")),
            client: Some((PathBuf::from("/cert"), PathBuf::from("/key"))),
        };
        let c = connection(&otlp);
        assert_eq!(
            (c.endpoint.text(), c.protocol, c.compression),
            ("https://h:4317", Protocol::Grpc, Compression::Gzip)
        );
        assert_eq!((c.headers, c.timeout), (otlp.headers.0, otlp.timeout));
        assert_eq!((c.ca, c.client_certificate.zip(c.client_key)), (otlp.ca, otlp.client));
    }
}
