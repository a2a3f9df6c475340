use super::*;

fn of(url: Option<&str>, ip: Option<&str>) -> Result<String, IdentityError> {
    let settings = IdentitySettings {
        kubelet_url: url.map(Into::into),
        node_ip: ip.map(Into::into),
        ..IdentitySettings::default()
    };
    super::url(&settings).map(Into::into)
}

#[test]
fn where_the_kubelet_is() {
    for (url, ip, want) in [
        (None, None, "https://127.0.0.1:10250/pods"),
        (None, Some("10.0.0.5"), "https://10.0.0.5:10250/pods"),
        (None, Some("fd00::5"), "https://[fd00::5]:10250/pods"),
        (Some(" "), Some(""), "https://127.0.0.1:10250/pods"),
        (Some("http://127.0.0.1:10255"), Some("10.0.0.5"), "http://127.0.0.1:10255/pods"),
        (Some("https://node-1:10250/"), None, "https://node-1:10250/pods"),
        (Some("https://proxy/api/v1/nodes/n1/proxy"), None, "https://proxy/api/v1/nodes/n1/proxy/pods"),
    ] {
        assert_eq!(of(url, ip).unwrap(), want);
    }
    for bad in ["10.0.0.5:10250", "ftp://x", "https://", "https://user:pw@x", "https://x/?a=b", "nonsense"] {
        assert!(matches!(of(Some(bad), None), Err(IdentityError::KubeletUrl { .. })), "{bad}");
    }
    assert!(of(None, Some("not an address")).is_err());
}

#[test]
fn a_token_is_for_tls_and_fit_for_a_header() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let kubelet = |url: &str| {
        let settings =
            IdentitySettings { kubelet_url: Some(url.into()), token_file: file.clone(), ..IdentitySettings::default() };
        Kubelet::new(&settings).unwrap()
    };
    assert_eq!(kubelet("https://x").token(), None);
    for (content, want) in [("abc.def\n", Some("abc.def")), ("", None), ("a\nb", None), ("\u{fc}", None), ("a b", None)]
    {
        std::fs::write(&file, content).unwrap();
        assert_eq!(kubelet("https://x").token().as_deref(), want);
        assert_eq!(kubelet("http://x").token(), None);
    }
}
