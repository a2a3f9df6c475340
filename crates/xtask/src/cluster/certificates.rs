//! The cluster's certificates: one authority, and for each program a certificate that says who it is to the API server.
//!
//! **Out**: PEM files and kubeconfigs in one folder. They are made anew for each cluster and go with it.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use super::{NODE, NODE_IP, SERVICE_IP, api_server};

/// Who may do everything.
const MASTERS: Option<&str> = Some("system:masters");
/// The group of kubelets.
const NODES: Option<&str> = Some("system:nodes");

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Makes them all.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "tests");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
    fs::write(folder.join("ca.crt"), authority.pem())?;
    // Tokens of service accounts are signed with this key.
    let tokens = KeyPair::generate()?;
    fs::write(folder.join("tokens.key"), tokens.serialize_pem())?;
    fs::write(folder.join("tokens.pub"), tokens.public_key_pem())?;

    let node = format!("system:node:{NODE}");
    let server = ["127.0.0.1", "localhost", NODE_IP, SERVICE_IP, "kubernetes", "kubernetes.default.svc"];
    issue(&authority, folder, "api-server", "kube-apiserver", None, &server)?;
    issue(&authority, folder, "kubelet-server", &node, NODES, &["127.0.0.1", NODE_IP, NODE])?;
    issue(&authority, folder, "api-server-client", "kube-apiserver-kubelet-client", MASTERS, &[])?;
    for (name, user, group) in [
        ("admin", "admin", MASTERS),
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        ("kubelet", node.as_str(), NODES),
        ("proxy", "system:kube-proxy", None),
    ] {
        issue(&authority, folder, name, user, group, &[])?;
        fs::write(folder.join(format!("{name}.kubeconfig")), kubeconfig(folder, name))?;
    }
    Ok(())
}

/// A server's certificate where names are given, else a client's.
fn issue(
    authority: &Authority,
    folder: &Path,
    name: &str,
    user: &str,
    group: Option<&str>,
    names: &[&str],
) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>())?;
    parameters.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        parameters.distinguished_name.push(DnType::OrganizationName, group);
    }
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let usage =
        if names.is_empty() { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth };
    parameters.extended_key_usages = vec![usage];
    let certificate = parameters.signed_by(&key, authority)?;
    fs::write(folder.join(format!("{name}.crt")), certificate.pem())?;
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    Ok(())
}

fn kubeconfig(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    let server = api_server();
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: tests\n\
         clusters:\n- name: tests\n  cluster:\n    server: {server}\n    certificate-authority: {folder}/ca.crt\n\
         users:\n- name: {name}\n  user:\n    client-certificate: {folder}/{name}.crt\n    client-key: {folder}/{name}.key\n\
         contexts:\n- name: tests\n  context:\n    cluster: tests\n    user: {name}\n"
    )
}
