//! What runs, and how to use it.

use std::fmt::Write as _;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use super::{
    Lab,
    network::Link,
    process::{self, Processes},
    storage::DRIVERS,
};

/// A table of processes, and the places to look at.
pub fn report(lab: &Lab) -> Result<String> {
    let records = Processes::of(lab.layout()).records()?;
    let Some(link) = Link::load(lab.layout())?.filter(|_| !records.is_empty()) else {
        return Ok("not running; start with: cargo cluster up".to_owned());
    };
    let mut text = String::new();
    writeln!(text, "{:<26} {:>8} {:>10} {:>9}", "PROCESS", "PID", "UP", "MEMORY")?;
    let mut total = 0;
    for record in records {
        let (up, memory) = if record.is_alive() {
            let seconds = Timestamp::now().duration_since(record.since).as_secs();
            let resident = process::resident(record.pid).unwrap_or_default();
            total += resident;
            (format!("{:#}", SignedDuration::from_secs(seconds)), format!("{} MiB", resident >> 20))
        } else {
            ("ended".to_owned(), "-".to_owned())
        };
        writeln!(text, "{:<26} {:>8} {up:>10} {memory:>9}", record.name, record.pid)?;
    }
    writeln!(text, "{:<26} {:>8} {:>10} {:>9}", "together", "", "", format!("{} MiB", total >> 20))?;
    let layout = lab.layout();
    writeln!(text, "\nAPI server   https://{}:6443", link.node)?;
    writeln!(text, "kubeconfig   {}", lab.kubeconfig().display())?;
    writeln!(text, "network      nsenter --net={}", layout.netns().display())?;
    writeln!(text, "containers   ctr -a {} -n k8s.io tasks ls", layout.containerd_socket().display())?;
    writeln!(text, "logs         {}", layout.at("log").display())?;
    for class in DRIVERS {
        let driver = lab.driver(class);
        writeln!(text, "driver {class:<5} {}", driver.control_file().display())?;
    }
    write!(text, "{}", how_to_use(lab))?;
    Ok(text)
}

/// What to type next.
pub fn how_to_use(lab: &Lab) -> String {
    format!(
        "\nuse it:   export KUBECONFIG=$(cargo cluster kubeconfig)\n          {} get nodes\nstop it:  cargo cluster down",
        lab.kubectl_path().display()
    )
}
