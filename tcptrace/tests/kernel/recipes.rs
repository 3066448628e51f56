//! docs/recipes.md: each command as it is written there, on a host on which there is something to find.

use std::{
    fs::{self, File},
    net::{SocketAddr, SocketAddrV4},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    actor::{Actor, Held, Listener},
    confinement::Folder,
    flood,
    harness::{Test, alone},
    netns::{Ip, Netns},
    peer::First,
    stage::{Exchange, part},
    tracer::{self, Tracer},
    wait,
    wire::Wire,
};

pub(crate) const TESTS: &[Test] = &[alone!(as_written)];

const RECIPES: &str = include_str!("../../../docs/recipes.md");
const SOON: Duration = Duration::from_secs(30);

/// The commands under each heading, without `sudo`.
fn recipes() -> Vec<(&'static str, Vec<&'static str>)> {
    let sections = RECIPES.split("\n## ").skip(1);
    let recipes = sections.map(|section| {
        let (question, rest) = section.split_once('\n').unwrap();
        let lines = rest.lines().filter_map(|line| line.strip_prefix("$ sudo "));
        (question, lines.collect())
    });
    recipes.collect()
}

/// A host where much goes wrong.
struct Host {
    wire: Wire,
    netns: Netns,
    client: Actor,
    server: Actor,
    /// Accepts what it is told to
    listener: Listener,
    /// Has room for two, and accepts nothing
    lazy: Listener,
    /// Serves whoever comes
    web: (Actor, Listener),
    folder: Folder,
    open: Vec<Held>,
}

/// A command that runs, and what it has said.
struct Running {
    child: Child,
    output: std::path::PathBuf,
}

impl Running {
    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap()).into_owned()
    }

    /// Waits for a line with all these words.
    fn says(&self, words: &[String]) {
        let found = wait::poll(SOON, || {
            let text = self.text();
            let has_all = |line: &str| words.iter().all(|word| line.contains(word.as_str()));
            text.lines().any(has_all).then_some(())
        });
        assert!(found.is_some(), "{words:?} in\n{}", self.text());
    }

    /// Ends it, unless it ends by itself.
    fn end(mut self, by_itself: bool) {
        if !by_itself {
            // A command's trace may have ended with it.
            let _gone = kill_process(Pid::from_child(&self.child), Signal::INT);
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.text());
    }
}

/// A `curl` that connects to this server, whatever it is asked for.
fn make_curl(folder: &Folder, server: SocketAddr) {
    let path = folder.0.join("curl");
    let program = std::env::current_exe().unwrap();
    let script = format!("#!/bin/sh\nexec {} dial {server} 1\n", program.display());
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Host {
    fn new() -> Self {
        let netns = Netns::new();
        let wire = Wire::stretch(&netns);
        let client = Actor::spawn(&netns, "client");
        let mut server = Actor::spawn(&netns, "server");
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        let lazy = server.listen(netns.addr(Ip::V4, 0), "backlog=1");
        let mut web = Actor::spawn(&netns, "web");
        let served = web.listen(netns.addr(Ip::V4, 0), "");
        web.tell_serve_until_told(&served, First::Client);
        let folder = Folder::new("recipes");
        make_curl(&folder, served.local);
        Self {
            wire,
            netns,
            client,
            server,
            listener,
            lazy,
            web: (web, served),
            folder,
            open: Vec::new(),
        }
    }

    /// Starts a command of the recipes. It finds a `curl` that connects to our server.
    fn start(&self, command: &str, number: usize) -> Running {
        let output = self.folder.0.join(format!("output-{number}"));
        let file = File::create(&output).unwrap();
        let words: Vec<_> = command.split_whitespace().collect();
        assert_eq!(words[0], "tcptrace", "{command}");
        let mut command = Command::new(tracer::binary());
        command
            .args(&words[1..])
            .env("PATH", format!("{}:/bin:/usr/bin", self.folder.0.display()));
        command.stderr(file.try_clone().unwrap()).stdout(file);
        let child = self.netns.enter(&mut command).spawn().unwrap();
        Running { child, output }
    }

    fn meet(&mut self) -> (Held, Held) {
        self.server.tell_accept(&self.listener, "");
        Exchange::default().meet(&mut self.client, &mut self.server, self.listener.local)
    }

    /// Gives a command something to find. Returns the words of the line that tells of it.
    fn act(&mut self, question: &str, command: &str) -> Vec<String> {
        let port = |addr: SocketAddr| format!(":{}", addr.port());
        let mut words = Vec::new();
        match question {
            "Who refused me?" => {
                let gone = self.server.listen(self.netns.addr(Ip::V4, 0), "");
                self.server.unlisten(&gone);
                let held = self.client.begin(gone.local);
                assert!(self.client.finish(&held).is_err());
                words.extend([port(held.local), "refused after".to_owned()]);
            }
            "What hangs now?" => {
                let held = self
                    .client
                    .begin(SocketAddrV4::new(Wire::host(9), 443).into());
                words.extend([port(held.local), "still waiting for SYN-ACK".to_owned()]);
                self.open.push(held);
            }
            "Who is slow to accept?" => {
                let held = self.client.connect(self.lazy.local, "");
                words.extend([port(held.local), "still waiting for accept()".to_owned()]);
                self.open.push(held);
            }
            "Which listener overflows?" => {
                let lazy = self.lazy.local;
                let more: Vec<_> = (0..6).map(|_| self.client.begin(lazy)).collect();
                let full = if command == "tcptrace listen" {
                    "2/1"
                } else {
                    "queue full"
                };
                words.extend([port(lazy), full.to_owned()]);
                self.open.extend(more);
            }
            "Who leaks CLOSE_WAIT?" => {
                let (near, far) = self.meet();
                self.server.close(&far);
                self.client.act("eof", &near);
                words.extend(["CLOSE_WAIT".to_owned(), port(near.local)]);
                self.open.push(near);
            }
            "Why did it end?" => {
                let (near, far) = self.meet();
                self.client.act("linger", &near);
                self.client.close(&near);
                assert_eq!(self.server.act("error", &far), "ECONNRESET");
                self.server.close(&far);
                words.extend([port(near.local), "reset sent: linger 0".to_owned()]);
            }
            "Is this a SYN flood, and from where?" => {
                let flooded = self.server.listen(self.netns.addr(Ip::V4, 0), "");
                let SocketAddr::V4(to) = flooded.local else {
                    panic!("not IPv4: {}", flooded.local);
                };
                for number in (0..30).map(|number| 3 * number) {
                    flood::request(&self.wire, number, to);
                }
                words.extend([port(to.into()), "half-open from 192.0.2.0/24".to_owned()]);
            }
            "What does this command talk to?" => {
                words.extend(["→".to_owned(), port(self.web.1.local)]);
            }
            "Who talks to 10.0.3.7?" => {
                self.netns.ip("addr add 10.0.3.7/32 dev lo\n");
                let listener = self.server.listen("10.0.3.7:0".parse().unwrap(), "");
                self.server.tell_accept(&listener, "");
                let (client, server) = (&mut self.client, &mut self.server);
                let (near, far) = Exchange::default().meet(client, server, listener.local);
                part(client, &near, server, &far, First::Client);
                words.extend([port(near.local), port(far.local), "closed after".to_owned()]);
            }
            "Which connections are oldest?" => {
                let (near, far) = self.meet();
                words.extend(["ESTABLISHED".to_owned(), port(near.local)]);
                self.open.extend([near, far]);
            }
            other => panic!("nothing answers {other:?}"),
        }
        words
    }
}

fn as_written() {
    let recipes = recipes();
    assert_eq!(recipes.len(), 10, "{recipes:?}");
    let mut host = Host::new();
    // What knows how old connections are.
    let knowing = Tracer::start(&["--no-existing"]);
    let mut number = 0;
    for (question, commands) in recipes {
        assert!(!commands.is_empty(), "{question}");
        for command in commands {
            number += 1;
            let looks = command.starts_with("tcptrace list");
            let running = if looks {
                let words = host.act(question, command);
                let running = host.start(command, number);
                running.says(&words);
                running
            } else {
                let running = host.start(command, number);
                // Its header: all is attached.
                running.says(&["TIME".to_owned()]);
                let words = host.act(question, command);
                running.says(&words);
                running
            };
            running.end(looks);
        }
    }
    knowing.finish().fine();
}
