//! The programs that are loaded: the upstream itself, nginx, haproxy and the sidecar.
//!
//! All keep connections alive on both sides, write no access log, buffer no answer and have one
//! worker. `Buffers::Large` gives nginx and haproxy 64 KiB, which is what large bodies need there.

use std::{fs, net::TcpListener, net::TcpStream, path::Path, process::Command, time::Duration};

use crate::{Result, proc::Process};

/// How long a program may take to listen.
const START: Duration = Duration::from_secs(30);

/// How large the buffers of nginx and haproxy are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Buffers {
    /// As the program comes.
    Default,
    /// 64 KiB.
    Large,
}

/// What to start.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Direct,
    Nginx,
    Haproxy,
    Sidecar { name: String, bin: String },
}

impl Kind {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Sidecar { name, .. } => name,
        }
    }

    /// Whether it can be started here.
    pub(crate) fn is_installed(&self) -> bool {
        let version = match self {
            Self::Direct => return true,
            Self::Sidecar { bin, .. } => return Path::new(bin).is_file(),
            Self::Nginx => ["nginx", "-v"],
            Self::Haproxy => ["haproxy", "-v"],
        };
        Command::new(version[0]).arg(version[1]).output().is_ok()
    }
}

/// A program under load.
#[derive(Debug)]
pub(crate) struct Peer {
    pub name: String,
    pub url: String,
    /// Whose CPU and memory count.
    pub pid: u32,
    /// `direct` has none of its own.
    _process: Option<Process>,
}

impl Peer {
    /// Starts `kind` in front of `upstream`, its files in `dir`.
    pub(crate) fn start(
        kind: &Kind,
        upstream: &Upstream,
        buffers: Buffers,
        dir: &Path,
    ) -> Result<Self> {
        let dir = dir.join(format!("{}-{buffers:?}", kind.name()));
        fs::create_dir_all(&dir)?;
        let (url, process) = match kind {
            Kind::Direct => (upstream.url.clone(), None),
            Kind::Nginx => proxy(&dir, upstream, buffers, nginx).map(some)?,
            Kind::Haproxy => proxy(&dir, upstream, buffers, haproxy).map(some)?,
            Kind::Sidecar { bin, .. } => {
                start_sidecar(&[], bin, &upstream.url, &dir, START).map(some)?
            }
        };
        let pid = process.as_ref().map_or(upstream.pid(), Process::pid);
        Ok(Self {
            name: kind.name().to_owned(),
            url,
            pid,
            _process: process,
        })
    }
}

fn some((url, process): (String, Process)) -> (String, Option<Process>) {
    (url, Some(process))
}

/// The MCP server behind all of them: this program once more.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub url: String,
    process: Process,
}

impl Upstream {
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let me = std::env::current_exe()?;
        let me = me.to_str().ok_or("the path of this program is not UTF-8")?;
        let mut process =
            Process::start(&[me, "upstream", "--port", "0"], &dir.join("upstream.log"))?;
        let url = process.wait_for(START, |l| Some(l.strip_prefix("LISTENING ")?.to_owned()))?;
        Ok(Self { url, process })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `ADDRESS:PORT`.
    fn address(&self) -> &str {
        self.url
            .trim_start_matches("http://")
            .trim_end_matches("/mcp")
    }
}

/// Starts a sidecar, `under` in front of its command line, and reads from its log where it listens.
pub(crate) fn start_sidecar(
    under: &[&str],
    bin: &str,
    upstream: &str,
    dir: &Path,
    within: Duration,
) -> Result<(String, Process)> {
    let run = [
        bin,
        "run",
        "--listen",
        "127.0.0.1:0",
        "--workers",
        "1",
        upstream,
    ];
    let mut process = Process::start(&[under, &run].concat(), &dir.join("sidecar.log"))?;
    let url = process.wait_for(within, |line| listening(line, upstream))?;
    Ok((url, process))
}

/// The endpoint that a line names, other than the upstream's.
fn listening(line: &str, upstream: &str) -> Option<String> {
    const BEFORE: &str = "http://127.0.0.1:";
    let mut rest = line;
    loop {
        let at = rest.find(BEFORE)?;
        let here = rest.get(at..)?;
        let port: String = here
            .get(BEFORE.len()..)?
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let url = format!("{BEFORE}{port}/mcp");
        if here.starts_with(&url) && url != upstream {
            return Some(url);
        }
        rest = here.get(BEFORE.len()..)?;
    }
}

/// A configuration file and the command line that takes it.
struct Proxy {
    config: String,
    command: Vec<String>,
}

fn proxy(
    dir: &Path,
    upstream: &Upstream,
    buffers: Buffers,
    describe: fn(&str, &str, u16, Buffers) -> Proxy,
) -> Result<(String, Process)> {
    // Free when it was asked for: nobody else on the machine wants this very port the next moment.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let path = dir.to_str().ok_or("the temporary directory is not UTF-8")?;
    let Proxy { config, command } = describe(path, upstream.address(), port, buffers);
    fs::write(dir.join("proxy.conf"), config)?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut process = Process::start(&command, &dir.join("proxy.log"))?;
    let end = std::time::Instant::now() + START;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if std::time::Instant::now() > end {
            process.wait_for(Duration::ZERO, |_| None::<()>)?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((format!("http://127.0.0.1:{port}/mcp"), process))
}

fn nginx(dir: &str, upstream: &str, port: u16, buffers: Buffers) -> Proxy {
    let large = match buffers {
        Buffers::Default => "",
        Buffers::Large => {
            "client_body_buffer_size 64k; proxy_buffer_size 64k; proxy_buffers 4 64k; proxy_busy_buffers_size 64k;"
        }
    };
    let config = format!(
        "user root; worker_processes 1; worker_rlimit_nofile 20000; daemon off;
pid {dir}/nginx.pid; error_log stderr crit;
events {{ worker_connections 19000; }}
http {{
  access_log off; tcp_nodelay on;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  keepalive_timeout 1h; keepalive_requests 1000000000; client_max_body_size 16m;
  {large}
  upstream mcp {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 1h; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mcp; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_buffering off; proxy_request_buffering off;
      proxy_read_timeout 1h; proxy_send_timeout 1h;
    }}
  }}
}}
"
    );
    let command = [
        "nginx",
        "-p",
        dir,
        "-e",
        "stderr",
        "-c",
        &format!("{dir}/proxy.conf"),
    ];
    Proxy {
        config,
        command: command.map(str::to_owned).into(),
    }
}

fn haproxy(dir: &str, upstream: &str, port: u16, buffers: Buffers) -> Proxy {
    let large = match buffers {
        Buffers::Default => "",
        Buffers::Large => "tune.bufsize 65536",
    };
    let config = format!(
        "global
  nbthread 1
  maxconn 9000
  {large}
defaults
  mode http
  option http-keep-alive
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
frontend in
  bind 127.0.0.1:{port} backlog 4096
  default_backend mcp
backend mcp
  server upstream {upstream} pool-max-conn 256
"
    );
    let command = ["haproxy", "-db", "-q", "-f", &format!("{dir}/proxy.conf")];
    Proxy {
        config,
        command: command.map(str::to_owned).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_is_told_from_the_upstream() {
        let upstream = "http://127.0.0.1:90/mcp";
        let of = |line| listening(line, upstream);
        assert_eq!(of("serving http://127.0.0.1:90/mcp"), None);
        assert_eq!(of("no URL"), None);
        assert_eq!(
            of("http://127.0.0.1:90/mcp is at http://127.0.0.1:901/mcp now").as_deref(),
            Some("http://127.0.0.1:901/mcp")
        );
    }
}
