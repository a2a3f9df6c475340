//! Whether somebody tells the names of pods: kubelet, API server or CRI socket are asked once, as the agent would.
//!
//! **In**: settings; answers of the network. **Out**: one item for each who was asked. **Limits**: those of `identity`.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::Duration;

use identity::{IdentitySettings, Probe, Source, Trouble};

use super::Item;

/// Where a kubelet of this host listens, if nothing else is configured.
const KUBELET: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10250));

/// Asks.
pub(super) fn look(settings: &IdentitySettings) -> Vec<Item> {
    const NAME: &str = "names of pods";
    let here = Here {
        is_auto: settings.kubernetes == Source::Auto,
        is_pod: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        has_token: settings.token_file.exists(),
        token_file: &settings.token_file,
        has_address: settings.node_ip.is_some() || settings.kubelet_url.is_some(),
        kubelet_listens: TcpStream::connect_timeout(&KUBELET, Duration::from_secs(1)).is_ok(),
    };
    if settings.kubernetes == Source::Off {
        return vec![Item::ok(NAME, "nobody is asked: identity.kubernetes is off")];
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let told = match runtime {
        Ok(runtime) => runtime.block_on(identity::probe(settings)),
        Err(error) => return vec![Item::limited(NAME, error, "nobody could be asked")],
    };
    match told {
        Ok(probes) => probes.iter().map(|probe| here.item(probe)).collect(),
        Err(error) => {
            vec![Item::limited(NAME, error, "see docs/configuration.md: nobody is asked with these settings")]
        }
    }
}

/// What else is known of where the profiler runs.
struct Here<'a> {
    is_auto: bool,
    is_pod: bool,
    has_token: bool,
    token_file: &'a Path,
    has_address: bool,
    kubelet_listens: bool,
}

impl Here<'_> {
    fn item(&self, probe: &Probe) -> Item {
        let name = probe.source;
        match &probe.outcome {
            Ok(pods) => Item::ok(name, format!("tells of {pods} pods")),
            // A host without Kubernetes is nothing to mend.
            Err(_)
                if name == "kubelet" && self.is_auto && !self.is_pod && !self.has_address && !self.kubelet_listens =>
            {
                Item::ok(name, "nobody answers: no Kubernetes here, as far as can be seen")
            }
            Err(trouble) => Item::limited(name, seen(trouble), self.remedy(name, trouble.condition)),
        }
    }

    fn remedy(&self, source: &str, condition: &str) -> String {
        let (api, cri) = (source == "API server", source == "CRI socket");
        match condition {
            "no socket" => {
                "name it with PROFILER_CRI_SOCKET; in a container it must be mounted, or the host's files be in reach"
                    .to_owned()
            }
            _ if cri => {
                "the socket is root's: run as root, or choose another source with PROFILER_KUBERNETES".to_owned()
            }
            "not authenticated" if !self.has_token => format!(
                "there is no token at {}: mount the service account's (automountServiceAccountToken: true), or name another \
                 file with PROFILER_TOKEN_FILE",
                self.token_file.display()
            ),
            "not authenticated" => format!(
                "the token at {} is not taken: it has expired, or is another cluster's; a kubelet without webhook authentication \
                 takes none: PROFILER_KUBERNETES=api or cri",
                self.token_file.display()
            ),
            "not authorized" if api => {
                "allow `list` and `watch` on pods: deploy/kubernetes/components/api-watch has the ClusterRole"
                    .to_owned()
            }
            "not authorized" => {
                "allow `get` on nodes/pods (Kubernetes 1.33 and newer) or nodes/proxy: deploy/kubernetes/base has \
                                 the ClusterRole"
                    .to_owned()
            }
            "certificate" => {
                "name the authority that signs the kubelet's certificate with PROFILER_KUBELET_CA, or do not check \
                              it (PROFILER_KUBELET_INSECURE=true: whoever sits between reads the token)"
                    .to_owned()
            }
            "configuration" => {
                "run as a pod with a service account, or name a kubeconfig with PROFILER_KUBECONFIG".to_owned()
            }
            "connection" | "timeout" if !api && self.is_pod && !self.has_address => {
                "127.0.0.1 is the pod itself: give the node's address as NODE_IP (downward API, status.hostIP)"
                    .to_owned()
            }
            "connection" | "timeout" if !api => "say where the kubelet listens with PROFILER_KUBELET_URL".to_owned(),
            _ => {
                "containers have ids and no names until this works; PROFILER_KUBERNETES names others to ask".to_owned()
            }
        }
    }
}

fn seen(trouble: &Trouble) -> String {
    let words = match trouble.condition {
        "not authenticated" => "does not know who asks (401)",
        "not authorized" => "knows who asks, and forbids it (403)",
        "certificate" => "has a certificate that is not trusted",
        "connection" => "cannot be reached",
        "timeout" => "does not answer in time",
        "no socket" => "is not there",
        other => other,
    };
    format!("{words}: {}", trouble.why)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn here() -> Here<'static> {
        Here {
            is_auto: true,
            is_pod: true,
            has_token: true,
            token_file: Path::new("/t"),
            has_address: false,
            kubelet_listens: false,
        }
    }

    fn item(here: &Here<'_>, source: &'static str, condition: &'static str) -> Item {
        let outcome = Err(Trouble { condition, why: "https://x/pods answers".to_owned() });
        here.item(&Probe { source, outcome })
    }

    #[test]
    fn every_trouble_says_what_to_do() {
        for (source, condition, seen, remedy) in [
            ("kubelet", "not authenticated", "(401)", "the token at /t is not taken"),
            ("kubelet", "not authorized", "(403)", "`get` on nodes/pods"),
            ("API server", "not authorized", "(403)", "`list` and `watch` on pods"),
            ("kubelet", "certificate", "not trusted", "PROFILER_KUBELET_CA"),
            ("kubelet", "connection", "cannot be reached", "NODE_IP"),
            ("kubelet", "timeout", "in time", "NODE_IP"),
            ("API server", "configuration", "configuration", "PROFILER_KUBECONFIG"),
            ("kubelet", "refused", "refused", "PROFILER_KUBERNETES"),
            ("CRI socket", "no socket", "is not there", "PROFILER_CRI_SOCKET"),
            ("CRI socket", "connection", "cannot be reached", "run as root"),
        ] {
            let item = item(&here(), source, condition);
            assert_eq!((item.name.as_str(), item.state), (source, State::Limited));
            assert!(item.seen.contains(seen) && item.seen.contains("https://x/pods"), "{}", item.seen);
            assert!(item.remedy.as_ref().unwrap().contains(remedy), "{condition}: {:?}", item.remedy);
        }
        let without = Here { has_token: false, ..here() };
        let item = item(&without, "kubelet", "not authenticated");
        assert!(item.remedy.unwrap().contains("no token at /t"));
    }

    #[test]
    fn a_host_without_kubernetes_is_fine_and_one_with_it_too() {
        let host = Here { is_pod: false, ..here() };
        assert_eq!(item(&host, "kubelet", "connection").state, State::Ok);
        assert_eq!(
            item(&host, "kubelet", "certificate").state,
            State::Ok,
            "there is none to trust, and nobody who has one"
        );
        let node = Here { is_pod: false, kubelet_listens: true, ..here() };
        assert_eq!(item(&node, "kubelet", "certificate").state, State::Limited);
        let told = Here { has_address: true, is_pod: false, ..here() };
        let item = item(&told, "kubelet", "connection");
        assert!(item.state == State::Limited && item.remedy.unwrap().contains("PROFILER_KUBELET_URL"));
        let good = here().item(&Probe { source: "kubelet", outcome: Ok(7) });
        assert_eq!((good.state, good.seen.as_str()), (State::Ok, "tells of 7 pods"));
    }
}
