//! Each service of `manifests/compose.yaml` starts with the variables that stand there, and logs in upstream.

use crate::support::mcp::{modern, modern_body};
use crate::support::{Program, Reply, Upstream};

const FILE: &str = include_str!("../../manifests/compose.yaml");
const TOKEN: &str = "hunter2-of-";

/// One service: its lines, as far as they are written here.
struct Service {
    name: String,
    text: String,
}

impl Service {
    fn all() -> Vec<Self> {
        let (_, services) = FILE.split_once("\nservices:\n").expect("services");
        let is_name = |line: &str| line.starts_with("  ") && !line.starts_with("   ");
        let mut found: Vec<Self> = Vec::new();
        for line in services.split_inclusive('\n') {
            if is_name(line) {
                let name = line.trim().trim_end_matches(':').to_owned();
                found.push(Self {
                    name,
                    text: String::new(),
                });
            } else if let Some(service) = found.last_mut() {
                service.text.push_str(line);
            }
        }
        found
    }

    /// Its variables, with those of the machine put in as Compose does.
    fn variables(&self) -> Vec<(&str, String)> {
        let (_, block) = self
            .text
            .split_once("environment:\n")
            .expect("an environment");
        let lines = block.lines().take_while(|line| line.starts_with("      "));
        let pairs = lines.map(|line| line.trim().split_once(": ").expect("a pair"));
        pairs
            .map(|(name, value)| {
                let asked = value
                    .strip_prefix("${")
                    .and_then(|rest| rest.split(':').next());
                let value =
                    asked.map_or_else(|| value.to_owned(), |asked| format!("{TOKEN}{asked}"));
                (name, value)
            })
            .collect()
    }
}

#[tokio::test]
async fn s0_18_s4_11_each_service_starts_by_its_variables_and_logs_in() {
    let services = Service::all();
    assert_eq!(services.len(), 2);
    for service in services {
        let upstream = Upstream::start(async |_| {
            Reply::json(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#)
        })
        .await;
        let mut variables = service.variables();
        let secret = format!("{TOKEN}{}_TOKEN", service.name.to_uppercase());
        assert!(
            variables.iter().any(|(_, value)| *value == secret),
            "{}",
            service.name
        );
        for (name, value) in &mut variables {
            if *name == "MCP_REMOTE_SERVER" {
                assert!(value.starts_with("https://"), "{value}");
                *value = upstream.url();
            }
        }
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let arguments = ["run", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"];
        let mut program = Program::start(&arguments, &variables);
        let (address, _) = program.serves().await;
        let address = ([127, 0, 0, 1], address.port()).into();
        let request =
            modern(modern_body("1", "tools/list", "")).path(&format!("/api/{}/mcp", service.name));
        let answered = request.fetch(address).await;
        assert_eq!(answered.status, 200, "{}", answered.text());
        let expected = format!("Bearer {secret}");
        assert_eq!(upstream.last().head.all("authorization"), [expected]);
        program.signal("TERM");
        assert_eq!(program.ends().await.status.code(), Some(0));
    }
}

#[test]
fn s0_18_services_are_confined_and_of_this_version() {
    let image = concat!("image: outrigger:", env!("CARGO_PKG_VERSION"), "\n");
    for service in Service::all() {
        let confined = [
            image,
            "read_only: true\n",
            "cap_drop: [ALL]\n",
            "no-new-privileges:true",
            ":8000\"]\n",
        ];
        for line in confined {
            assert!(service.text.contains(line), "{}: {line}", service.name);
        }
        let ports = service.text.lines().find(|line| line.contains("ports:"));
        assert!(
            ports.is_some_and(|line| line.contains("127.0.0.1:")),
            "{ports:?}"
        );
    }
}
