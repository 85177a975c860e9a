//! A whole sidecar inside the test, from YAML.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use outrigger::config::{Config, Loaded, Reload};
use outrigger::sidecar::{AdminPorts, Bound, Handle, Sidecar};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::client::{Answered, Request};

/// A sidecar that serves. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where its first listener listens.
    pub(crate) address: SocketAddr,
    /// Where health, metrics and status are.
    pub(crate) admin: SocketAddr,
    /// Reloads and drains it.
    pub(crate) handle: Handle,
    listen: SocketAddr,
    task: JoinHandle<()>,
}

/// Starts a sidecar. Whatever the text does not say about listening is port 0 of loopback.
pub(crate) async fn sidecar(yaml: &str) -> Running {
    let loaded = load(yaml);
    let listen = loaded.config.listeners[0].listen;
    let bound = Sidecar::build(&loaded)
        .unwrap()
        .bind(AdminPorts::AsConfigured)
        .await
        .unwrap();
    run(bound, listen)
}

/// Starts a sidecar before the server at `url` that variables alone configure, but for its ports.
pub(crate) async fn from_environment(url: &str, variables: &[(&str, &str)]) -> Running {
    let mut environment: BTreeMap<String, String> = BTreeMap::new();
    environment.insert("MCP_REMOTE_SERVER".to_owned(), url.to_owned());
    for (name, value) in variables {
        environment.insert((*name).to_owned(), (*value).to_owned());
    }
    let mut loaded = match Config::from_environment(&environment) {
        Ok(loaded) => loaded,
        Err(report) => panic!("{report}"),
    };
    let anywhere = ([127, 0, 0, 1], 0).into();
    loaded.config.listeners[0].listen = anywhere;
    loaded.config.control.listen = anywhere;
    loaded.config.observability.metrics.listen = anywhere;
    let sidecar = Sidecar::build_with(&loaded, Box::new(environment)).unwrap();
    run(
        sidecar.bind(AdminPorts::AsConfigured).await.unwrap(),
        anywhere,
    )
}

/// Runs a sidecar that is bound, whose configuration says to listen at `listen`.
pub(crate) fn run(bound: Bound, listen: SocketAddr) -> Running {
    Running {
        address: bound.addresses()[0],
        admin: bound.admin_address().unwrap(),
        handle: bound.handle(),
        listen,
        task: tokio::spawn(bound.run()),
    }
}

/// Reads a configuration, with port 0 wherever it does not say.
pub(crate) fn load(yaml: &str) -> Loaded {
    match Config::from_text("test.yaml", on_free_ports(yaml).as_bytes()) {
        Ok(loaded) => loaded,
        Err(report) => panic!("{report}"),
    }
}

/// The text, with port 0 wherever it does not say. It must not say anything about observability but in `log`.
pub(crate) fn on_free_ports(yaml: &str) -> String {
    let mut text = yaml.to_owned();
    for (key, section) in [
        ("listeners:", "listeners: [{listen: '127.0.0.1:0'}]"),
        ("control:", "control: {listen: '127.0.0.1:0'}"),
        (
            "observability:",
            "observability: {metrics: {listen: '127.0.0.1:0'}}",
        ),
    ] {
        if !yaml.lines().any(|line| line.starts_with(key)) {
            text = format!("{text}\n{section}\n");
        }
    }
    text
}

impl Running {
    /// Goes over to another configuration.
    pub(crate) fn reload(&self, yaml: &str) {
        let loaded = load(yaml);
        assert_eq!(loaded.config.listeners[0].listen, self.listen);
        self.handle.reload(&Reload::Good(loaded.into()));
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn fetch(&self, request: &Request) -> Answered {
        request.fetch(self.address).await
    }

    /// The status page.
    pub(crate) async fn status(&self) -> Value {
        Request::get("/status").fetch(self.admin).await.json()
    }

    /// The metrics' text.
    pub(crate) async fn metrics(&self) -> String {
        Request::get("/metrics").fetch(self.admin).await.text()
    }

    /// The sum of all samples of a family whose labels hold that text.
    pub(crate) async fn metric(&self, family: &str, labels: &str) -> f64 {
        let text = self.metrics().await;
        text.lines()
            .filter(|line| {
                let rest = line.strip_prefix(family);
                rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
