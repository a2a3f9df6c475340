//! Who may see profiles.
//!
//! Two questions, both asked of every request for a profile, page or file of the page:
//! - Does it come from loopback? (Anyone on the machine, and whoever was let in by `ssh -L` or `kubectl port-forward`.)
//! - Does its `Host` name loopback or an address? A web site can make a visitor's browser ask `http://site.example:2112/`
//!   with that name pointing to 127.0.0.1 (DNS rebinding), and read the answer as its own; but then the browser says
//!   `Host: site.example`.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::server::Ends;
use super::{AllowedFrom, App};

/// Lets a request pass, or refuses it with the reason.
pub(super) async fn check(
    State(app): State<Arc<App>>,
    Extension(ends): Extension<Ends>,
    request: Request,
    next: Next,
) -> Response {
    if app.settings.profiles_allowed_from == AllowedFrom::Loopback
        && let Err(why) = allowed(ends.peer.ip(), host(&request).as_deref())
    {
        let text = refusal(&why, ends.local.port(), &app.settings.how_to_allow);
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

fn refusal(why: &Refused, port: u16, how_to_allow: &str) -> String {
    format!(
        "Profiles are not shown here: {why}.\n\n\
         They show what the whole machine does, so only the machine itself may see them. Open\n\
         http://localhost:{port}/ there, or bring the port to your machine first:\n\n\
         \x20   ssh -L {port}:localhost:{port} HOST\n\
         \x20   kubectl port-forward POD {port}\n\n\
         To show profiles to everyone who reaches this port: {how_to_allow}.\n\
         /metrics, /healthz and /readyz are answered to everybody.\n"
    )
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("you come from {0}, which is not this machine's loopback")]
    Peer(IpAddr),
    #[error("your browser asked for a host name that is not a loopback name")]
    Host,
    #[error("the request names no host")]
    NoHost,
}

fn allowed(peer: IpAddr, host: Option<&str>) -> Result<(), Refused> {
    if !peer.to_canonical().is_loopback() {
        return Err(Refused::Peer(peer.to_canonical()));
    }
    match host {
        None => Err(Refused::NoHost),
        Some(host) if names_loopback_or_address(host) => Ok(()),
        Some(_) => Err(Refused::Host),
    }
}

/// The host that a request asks for: of the target where it has one, else of the one `Host` header.
fn host(request: &Request) -> Option<String> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.as_str().to_owned());
    }
    one(request.headers()).map(str::to_owned)
}

fn one(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    }
}

/// Whether a `host[:port]` is `localhost`, a name below it, or an IP address: none of these can be made to point
/// elsewhere by whoever runs a web site.
fn names_loopback_or_address(host: &str) -> bool {
    let name = without_port(host);
    if let Some(inner) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_may_be_asked_for() {
        for host in [
            "localhost",
            "localhost:2112",
            "LocalHost:2112",
            "localhost.",
            "a.localhost:80",
            "127.0.0.1",
            "127.8.9.1:2112",
            "[::1]",
            "[::1]:2112",
            "10.0.0.7:2112",
            "[fe80::1]:9",
            "::1",
        ] {
            assert!(names_loopback_or_address(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:2112",
            "localhost.evil.example",
            "evillocalhost",
            "127.0.0.1.evil.example:2112",
            "[::1].evil.example",
            "localhost@evil.example",
            "evil.example:localhost",
            "2130706433",
            "[localhost]",
            ":2112",
        ] {
            assert!(!names_loopback_or_address(host), "{host}");
        }
    }

    #[test]
    fn peers_that_may_ask() {
        let ok = |peer: &str| allowed(peer.parse().unwrap(), Some("localhost:2112")).is_ok();
        for peer in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"] {
            assert!(ok(peer), "{peer}");
        }
        for peer in ["10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "0.0.0.0", "::", "192.168.127.1"] {
            assert!(!ok(peer), "{peer}");
        }
        assert_eq!(allowed("::1".parse().unwrap(), None), Err(Refused::NoHost));
        assert_eq!(allowed("::1".parse().unwrap(), Some("evil.example")), Err(Refused::Host));
    }

    #[test]
    fn two_hosts_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert_eq!(one(&headers), Some("localhost"));
        headers.append(header::HOST, "evil.example".parse().unwrap());
        assert_eq!(one(&headers), None);
    }

    #[test]
    fn a_refusal_says_how_to_be_allowed() {
        let why = Refused::Peer("10.0.0.7".parse().unwrap());
        let text = refusal(&why, 2112, "start it with --web-allow any");
        for part in ["10.0.0.7", "http://localhost:2112/", "kubectl port-forward", "--web-allow any"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
