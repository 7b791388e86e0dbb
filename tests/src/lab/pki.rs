//! The cluster's keys, certificates and kubeconfigs: one authority, one identity per process.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use common::manifest::NAMESPACE;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::json;
use webhook::manifests::SERVICE;

use super::{
    command::write,
    layout::{Layout, NODE},
    network::API_SERVICE,
};

/// The kubeconfig that `cargo cluster kubeconfig` prints.
pub const ADMIN: &str = "admin";
/// As whom the API server calls webhooks that ask for a certificate.
pub const WEBHOOK_CLIENT: &str = "kube-apiserver-webhook-client";
/// The kubeconfig in which the API server finds that certificate.
pub const WEBHOOKS: &str = "webhooks";
const MASTERS: &str = "system:masters";

/// Who talks to the API server: file name, user, group. One user per process, so that the audit log tells them apart.
const CLIENTS: [(&str, &str, &str); 10] = [
    (ADMIN, "admin", MASTERS),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("kubelet", "system:node:lab", "system:nodes"),
    ("proxy", "system:kube-proxy", ""),
    ("snapshot-controller", "snapshot-controller", MASTERS),
    ("csi-provisioner", "csi-provisioner", MASTERS),
    ("csi-snapshotter", "csi-snapshotter", MASTERS),
    ("csi-resizer", "csi-resizer", MASTERS),
    ("lab", "lab", MASTERS),
];

/// Makes everything, unless it was made for the same address.
pub fn ensure(layout: &Layout, node: Ipv4Addr) -> Result<()> {
    let stamp = layout.pki("made-for");
    let complete = layout.kubeconfig(WEBHOOKS).is_file();
    if complete && std::fs::read_to_string(&stamp).is_ok_and(|made_for| made_for == node.to_string()) {
        return Ok(());
    }
    let authority = Authority::new(layout)?;
    let server = |names: &[&str], addresses: &[Ipv4Addr]| {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(IpAddr::V4(*address))));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok::<_, rcgen::Error>(params)
    };
    let api_names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    authority.issue(
        "apiserver",
        "kube-apiserver",
        "",
        server(&api_names, &[Ipv4Addr::LOCALHOST, node, API_SERVICE])?,
    )?;
    authority.issue("kubelet-server", "kubelet", "", server(&[NODE], &[Ipv4Addr::LOCALHOST, node])?)?;
    authority.issue("apiserver-kubelet-client", "kube-apiserver", MASTERS, client())?;
    authority.issue("front-proxy-client", "front-proxy-client", "", client())?;
    for (name, user, group) in CLIENTS {
        authority.issue(name, user, group, client())?;
        write(&layout.kubeconfig(name), kubeconfig(layout, name, node).to_string())?;
    }
    authority.issue(WEBHOOKS, WEBHOOK_CLIENT, "", client())?;
    write(&layout.kubeconfig(WEBHOOKS), webhooks(layout).to_string())?;
    let service_accounts = KeyPair::generate()?;
    write(&layout.pki("service-accounts.key"), service_accounts.serialize_pem())?;
    write(&layout.pki("service-accounts.pub"), service_accounts.public_key_pem())?;
    write(&stamp, node.to_string())
}

struct Authority<'a> {
    layout: &'a Layout,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn new(layout: &'a Layout) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "smartclone local cluster");
        let key = KeyPair::generate()?;
        write(&layout.pki("ca.crt"), params.self_signed(&key)?.pem())?;
        Ok(Self { layout, issuer: Issuer::new(params, key) })
    }

    fn issue(&self, file: &str, user: &str, group: &str, mut params: CertificateParams) -> Result<()> {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("certificate {file}"))?;
        write(&self.layout.pki(&format!("{file}.key")), key.serialize_pem())?;
        write(&self.layout.pki(&format!("{file}.crt")), certificate.pem())
    }
}

fn client() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// JSON is YAML.
/// Who the API server is to a webhook is said by the name of the webhook's Service.
fn webhooks(layout: &Layout) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "users": [{"name": format!("{SERVICE}.{NAMESPACE}.svc"), "user": {
            "client-certificate": layout.pki(&format!("{WEBHOOKS}.crt")),
            "client-key": layout.pki(&format!("{WEBHOOKS}.key")),
        }}],
    })
}

fn kubeconfig(layout: &Layout, user: &str, node: Ipv4Addr) -> serde_json::Value {
    let name = format!("smartclone-{}", layout.id());
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {
            "server": format!("https://{node}:6443"),
            "certificate-authority": layout.pki("ca.crt"),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "users": [{"name": user, "user": {
            "client-certificate": layout.pki(&format!("{user}.crt")),
            "client-key": layout.pki(&format!("{user}.key")),
        }}],
    })
}
