//! The binary itself: started, watched, told to end.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{eventually, soon};

/// A running `outrigger`. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    written: Arc<Mutex<String>>,
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// All that it wrote to standard error.
    pub(crate) written: String,
}

impl Program {
    /// Starts it with these arguments and these variables alone.
    pub(crate) fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let written = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let copy = written.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut written = copy.lock().unwrap();
                written.push_str(&line);
                written.push('\n');
            }
        });
        Self { child, written }
    }

    /// All that it has written to standard error so far.
    pub(crate) fn written(&self) -> String {
        self.written.lock().unwrap().clone()
    }

    /// Waits until it serves, and gives where: the listener, then the admin port.
    pub(crate) async fn serves(&mut self) -> (SocketAddr, SocketAddr) {
        let mut places = None;
        let child = &mut self.child;
        let written = &self.written;
        eventually("a program that serves", || {
            let text = written.lock().unwrap().clone();
            if let Ok(Some(status)) = child.try_wait() {
                panic!("it ended with {status}: {text}");
            }
            let listens = address_after(&text, "listening on http://");
            let admin = address_after(&text, "status at http://");
            places = listens.zip(admin);
            places.is_some()
        })
        .await;
        places.unwrap()
    }

    /// Waits until it has written that text.
    pub(crate) async fn writes(&self, text: &str) {
        let written = &self.written;
        eventually(text, || written.lock().unwrap().contains(text)).await;
    }

    /// Sends it a signal: `TERM`, `HUP`, `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ends(mut self) -> Ended {
        let status = soon("the program's end", self.child.wait()).await.unwrap();
        // The reader of its standard error ends with it, a moment later.
        eventually("its last words", || Arc::strong_count(&self.written) == 1).await;
        Ended {
            status,
            written: self.written(),
        }
    }
}

fn address_after(text: &str, mark: &str) -> Option<SocketAddr> {
    let rest = &text[text.find(mark)? + mark.len()..];
    rest.split(['/', '\n']).next()?.parse().ok()
}
