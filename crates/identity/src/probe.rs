//! One question to those who would be asked for pods, for who wants to know whether it works.
//!
//! **In**: settings. **Out**: what came of it, in words. **Limits**: those of each source.

use crate::settings::{IdentityError, IdentitySettings, Source};
use crate::source::cri::Cri;
use crate::source::kubelet::Kubelet;
use crate::source::{Failure, api};

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who was asked.
    pub source: &'static str,
    /// How many pods it told of, or why it did not.
    pub outcome: Result<usize, Trouble>,
}

/// Why a source gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of trouble: `not authenticated`, `not authorized`, `certificate`, `connection`, `timeout`, `no socket`, and
    /// others.
    pub condition: &'static str,
    /// The error's own words.
    pub why: String,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self { condition: failure.condition, why: failure.why }
    }
}

/// Asks everybody who would be asked with these settings, once.
///
/// # Errors
/// Settings that cannot be used.
pub async fn probe(settings: &IdentitySettings) -> Result<Vec<Probe>, IdentityError> {
    let mut out = Vec::new();
    if matches!(settings.kubernetes, Source::Auto | Source::Kubelet) {
        let answer = Kubelet::new(settings)?.list().await;
        let outcome = answer.map(|listing| listing.pods.len()).map_err(Trouble::from);
        out.push(Probe { source: "kubelet", outcome });
    }
    let mut cri = Cri::new(settings);
    // Beside the kubelet a runtime without a socket is no trouble.
    if settings.kubernetes == Source::Cri || (settings.kubernetes == Source::Auto && cri.socket().is_some()) {
        let outcome = cri.list().await.map(|listing| listing.pods.len()).map_err(Trouble::from);
        out.push(Probe { source: "CRI socket", outcome });
    }
    if settings.kubernetes == Source::Api {
        if settings.node_name.as_deref().is_none_or(|node| node.trim().is_empty()) {
            return Err(IdentityError::NodeName);
        }
        out.push(Probe { source: "API server", outcome: api::ask(settings).await.map_err(Trouble::from) });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_not_there_is_said_so_and_who_is_not_wanted_is_not_asked() {
        let mut settings = IdentitySettings {
            kubelet_url: Some("http://127.0.0.1:9".to_owned()),
            host_root: "/no/such/root".into(),
            ..IdentitySettings::default()
        };
        let told = probe(&settings).await.unwrap();
        let trouble = told[0].outcome.clone().unwrap_err();
        assert_eq!((told[0].source, trouble.condition), ("kubelet", "connection"));
        assert!(trouble.why.contains("http://127.0.0.1:9/pods"), "{}", trouble.why);
        assert_eq!(told.len(), 1, "without a socket nobody looks for it");
        settings.kubernetes = Source::Cri;
        let told = probe(&settings).await.unwrap();
        assert_eq!((told[0].source, told[0].outcome.clone().unwrap_err().condition), ("CRI socket", "no socket"));
        settings.kubernetes = Source::Off;
        assert_eq!(probe(&settings).await.unwrap(), []);
        settings.kubernetes = Source::Api;
        assert!(matches!(probe(&settings).await, Err(IdentityError::NodeName)));
        settings.node_name = Some("n1".to_owned());
        settings.kubeconfig = Some("/no/such/file".into());
        let told = probe(&settings).await.unwrap();
        assert_eq!(told[0].outcome.clone().unwrap_err().condition, "configuration");
        settings = IdentitySettings { kubelet_url: Some("ftp://x".to_owned()), ..IdentitySettings::default() };
        assert!(probe(&settings).await.is_err());
    }
}
