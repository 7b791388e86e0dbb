//! A network namespace for the whole cluster: kube-proxy's rules, the pods' bridge and every port stay inside it,
//! and one link with two addresses joins it to the host.

use std::{net::Ipv4Addr, path::Path, process::Stdio};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use super::{
    command::{command, remove_entry, run, write},
    host,
    layout::Layout,
};

/// The pods' addresses.
pub const PODS: &str = "10.244.0.0/23";
/// The Services' addresses.
pub const SERVICES: &str = "10.96.0.0/16";
/// The API server's Service: the first of [`SERVICES`].
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Links between hosts and clusters are taken from here: 16384 pairs of addresses.
const LINKS: [u8; 2] = [10, 222];
/// The cluster's end of the link, inside the namespace.
const NODE_LINK: &str = "node0";

/// The two addresses of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The host's end.
    pub host: Ipv4Addr,
    /// The cluster's end, at which the API server listens: the node's address.
    pub node: Ipv4Addr,
}

impl Link {
    fn nth(index: u16) -> Self {
        let [high, low] = (index % (1 << 14) * 4).to_be_bytes();
        let address = |last: u8| Ipv4Addr::new(LINKS[0], LINKS[1], high, low | last);
        Self { host: address(1), node: address(2) }
    }

    /// The first one from a place of the checkout's own that nobody on this machine uses.
    fn choose(layout: &Layout, taken: &[(Ipv4Addr, u8)]) -> Option<Self> {
        let start = u16::from_str_radix(layout.id().get(..4)?, 16).ok()?;
        (0..1 << 14)
            .map(|offset| Self::nth(start.wrapping_add(offset)))
            .find(|link| !taken.iter().any(|network| link.clashes_with(*network)))
    }

    /// Only a network as specific as our pool counts: a default route, or a VPN's for 10.0.0.0/8, gives way to ours.
    fn clashes_with(self, (network, prefix): (Ipv4Addr, u8)) -> bool {
        prefix >= 16 && {
            let mask = u32::MAX << (32 - u32::from(prefix).min(30));
            network.to_bits() & mask == self.host.to_bits() & mask
        }
    }

    /// The addresses that the cluster uses or used, if it was ever up.
    pub fn load(layout: &Layout) -> Result<Option<Self>> {
        match std::fs::read(layout.at("link.json")) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("read link.json"),
        }
    }
}

/// A command that runs in the namespace, and in the host's file system.
pub fn inside(layout: &Layout, program: &str, args: &[&str]) -> Command {
    let mut enter = command("nsenter", [format!("--net={}", layout.netns().display())]);
    enter.arg("--").arg(program).args(args);
    enter
}

/// Makes namespace and link, unless they are there.
pub async fn ensure(layout: &Layout) -> Result<Link> {
    let kept = Link::load(layout)?;
    if let Some(link) = kept
        && host::is_mounted(&layout.netns())?
        && Path::new("/sys/class/net").join(layout.host_link()).exists()
    {
        return Ok(link);
    }
    remove(layout).await?;
    let taken = networks().await?;
    let link = kept
        .filter(|link| !taken.iter().any(|network| link.clashes_with(*network)))
        .or_else(|| Link::choose(layout, &taken))
        .context("no pair of addresses is free in 10.222.0.0/16")?;
    write(&layout.at("link.json"), serde_json::to_vec(&link)?)?;
    let netns = layout.netns();
    write(&netns, "")?;
    // Not `ip netns add`: that one mounts on /run/netns, which then stays behind.
    run(command("unshare", [&format!("--net={}", netns.display()), "true"])).await?;
    let mut add =
        command("ip", ["link", "add", &layout.host_link(), "type", "veth", "peer", "name", NODE_LINK, "netns"]);
    add.arg(&netns);
    run(add).await?;
    let Link { host, node } = link;
    let link_of_host = layout.host_link();
    run(command("ip", ["address", "add", &format!("{host}/30"), "dev", &link_of_host])).await?;
    run(command("ip", ["link", "set", &link_of_host, "up"])).await?;
    // A Service's address has to have a route before kube-proxy's rules replace it by a pod's. There is no
    // default route: nothing in this cluster has business outside.
    let script = format!(
        "ip link set lo up
         ip address add {node}/30 dev {NODE_LINK}
         ip link set {NODE_LINK} up
         ip route add {SERVICES} dev {NODE_LINK} src {node}
         echo 1 > /proc/sys/net/ipv4/ip_forward
         echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables"
    );
    run(inside(layout, "sh", &["-euc", &script])).await?;
    Ok(link)
}

/// Removes link and namespace. What still runs inside keeps the namespace alive, unseen.
pub async fn remove(layout: &Layout) -> Result<()> {
    if Path::new("/sys/class/net").join(layout.host_link()).exists() {
        run(command("ip", ["link", "delete", &layout.host_link()])).await?;
    }
    host::unmount_below(&layout.netns()).await?;
    // The file goes too, and with it the mount's copies in other mount namespaces.
    remove_entry(&layout.netns())
}

/// The networks that the host has routes or addresses for.
async fn networks() -> Result<Vec<(Ipv4Addr, u8)>> {
    let mut show = command("ip", ["-json", "-4", "route", "show", "table", "all"]);
    show.stderr(Stdio::null());
    let routes: Vec<Value> = serde_json::from_str(&run(show).await?).context("routes")?;
    Ok(routes.iter().filter_map(|route| network(route.get("dst")?.as_str()?)).collect())
}

fn network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_avoids_what_the_host_uses_and_nothing_else() {
        let link = Link::nth(1);
        assert_eq!(link, Link { host: [10, 222, 0, 5].into(), node: [10, 222, 0, 6].into() });
        let clash = |text| link.clashes_with(network(text).expect("a network"));
        assert!(clash("10.222.0.4/30") && clash("10.222.0.6") && clash("10.222.0.0/16"));
        assert!(!clash("10.222.0.8/30") && !clash("10.0.0.0/8") && !clash("0.0.0.0/0") && !clash("10.222.0.2"));
        assert_eq!(network("default"), None);
    }
}
