//! Which node of a Kubernetes cluster this is.
//!
//! Manifests tell a pod its node's name and address by the downward API, and the usual names of these variables are not
//! ours. They are facts about where the profiler runs, not settings: they count with and without a file, and only where
//! nothing else says the same.

use super::env::Environment;
use super::settings::Settings;

/// The attribute that says it.
pub(crate) const NODE_NAME: &str = "k8s.node.name";

impl Settings {
    /// Fills in the node's name and address, as far as settings leave them open.
    pub(super) fn find_node(&mut self, env: &Environment) {
        let set = |name: &str| env.lookup(name).filter(|value| !value.is_empty());
        // Outside of pods these two are other programs' variables: a build server's, for one.
        let in_pod = |name: &str| set("KUBERNETES_SERVICE_HOST").and_then(|_| set(name));
        let given =
            || self.resource.attributes.iter().find(|(key, _)| key == NODE_NAME).map(|(_, value)| value.clone());
        if self.identity.node_name.is_none() {
            self.identity.node_name = given().or_else(|| set("K8S_NODE_NAME")).or_else(|| in_pod("NODE_NAME"));
        }
        if self.identity.node_ip.is_none() {
            self.identity.node_ip = set("K8S_NODE_IP").or_else(|| in_pod("NODE_IP")).or_else(|| in_pod("HOST_IP"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pairs: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let mut settings = Settings::default();
        settings.find_node(&Environment::of(pairs));
        (settings.identity.node_name, settings.identity.node_ip)
    }

    #[test]
    fn the_downward_api_tells_it() {
        let some = |text: &str| Some(text.to_owned());
        let pod = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        assert_eq!(found(&[pod, ("NODE_NAME", "n1"), ("NODE_IP", "10.0.0.5")]), (some("n1"), some("10.0.0.5")));
        assert_eq!(found(&[pod, ("HOST_IP", "10.0.0.5")]), (None, some("10.0.0.5")));
        assert_eq!(found(&[("K8S_NODE_NAME", "n2"), ("K8S_NODE_IP", "::1")]), (some("n2"), some("::1")));
        assert_eq!(found(&[("NODE_NAME", "built-in"), ("NODE_IP", "1")]), (None, None), "not in a pod");
        assert_eq!(found(&[pod, ("NODE_NAME", "")]), (None, None));
    }

    #[test]
    fn settings_and_attributes_win() {
        let mut settings = Settings::default();
        settings.resource.attributes = vec![(NODE_NAME.to_owned(), "given".to_owned())];
        let env = Environment::of(&[("K8S_NODE_NAME", "n2")]);
        settings.find_node(&env);
        assert_eq!(settings.identity.node_name.as_deref(), Some("given"));
        settings.identity.node_name = Some("set".to_owned());
        settings.find_node(&env);
        assert_eq!(settings.identity.node_name.as_deref(), Some("set"));
    }
}
