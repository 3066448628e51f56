//! The ways a connection ends.

use crate::{
    actor::{Actor, Held},
    check::Pair,
    harness::{Test, beside},
    netns::Ip,
    stage::{Exchange, Stage, Told},
};

pub(crate) const TESTS: &[Test] = &[
    beside!(shutdown_before_close).smoke(),
    beside!(simultaneous_close).smoke(),
    beside!(reset_by_linger).smoke(),
    beside!(reset_for_unread_data),
    beside!(killed_process),
];

/// A connection that stands, and what is around it.
struct Scene {
    stage: Stage,
    client: Actor,
    server: Actor,
    near: Held,
    far: Held,
    pair: Pair,
}

impl Scene {
    fn set() -> Self {
        let stage = Stage::open(&["--no-existing"]);
        let mut client = Actor::spawn(&stage.netns, "client");
        let mut server = Actor::spawn(&stage.netns, "server");
        let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
        server.tell_accept(&listener, "");
        let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
        let pair = Pair::new(&near, &client.who, &far, &server.who);
        Self {
            stage,
            client,
            server,
            near,
            far,
            pair,
        }
    }

    fn end(self) -> Ended {
        let told = self.stage.end(0, &[]);
        told.check(&[self.pair], &[]);
        Ended {
            told,
            near: self.near,
            far: self.far,
        }
    }
}

struct Ended {
    told: Told,
    near: Held,
    far: Held,
}

impl Ended {
    /// How each end closed, the client's first.
    fn reasons(&self, client: &str, server: &str) {
        for (held, reason) in [(&self.near, client), (&self.far, server)] {
            let ours = self.told.ours();
            let close = ours
                .iter()
                .find(|record| record.event() == "close" && record.is_of(held))
                .unwrap();
            assert_eq!(close.text("reason"), Some(reason), "{}", close.line);
        }
    }
}

/// `close()` finds the socket in a state it does not leave by it.
fn shutdown_before_close() {
    let mut scene = Scene::set();
    scene.client.act("shutdown", &scene.near);
    scene.server.act("eof", &scene.far);
    scene.client.close(&scene.near);
    scene.server.act("shutdown", &scene.far);
    scene.server.close(&scene.far);
    scene.end().reasons("normal", "normal");

    // And with the other FIN still to come when both directions are shut.
    let mut scene = Scene::set();
    scene.server.act("shutdown", &scene.far);
    scene.client.act("eof", &scene.near);
    scene.client.act("shutdown", &scene.near);
    scene.client.close(&scene.near);
    scene.server.close(&scene.far);
    scene.end().reasons("normal", "normal");
}

/// Both ends close, each before it has seen the other do so; whether the kernel sees it so too is
/// a matter of luck, which the oracle tells.
fn simultaneous_close() {
    let stage = Stage::open(&["--no-existing"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    let mut pairs = Vec::new();
    for _ in 0..10 {
        server.tell_accept(&listener, "");
        let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
        client.tell_close(&near);
        server.tell_close(&far);
        client.answer();
        server.answer();
        pairs.push(Pair::new(&near, &client.who, &far, &server.who));
    }
    let told = stage.end(0, &[]);
    told.check(&pairs, &[]);
    for close in told
        .ours()
        .iter()
        .filter(|record| record.event() == "close")
    {
        assert_eq!(close.text("reason"), Some("normal"), "{}", close.line);
    }
}

fn reset_by_linger() {
    let mut scene = Scene::set();
    scene.client.act("linger", &scene.near);
    scene.client.close(&scene.near);
    assert_eq!(scene.server.act("error", &scene.far), "ECONNRESET");
    scene.server.close(&scene.far);
    scene.end().reasons("reset_sent", "reset_received");
}

fn reset_for_unread_data() {
    let mut scene = Scene::set();
    scene.client.act("send", &scene.near);
    scene.server.act("readable", &scene.far);
    scene.server.close(&scene.far);
    assert_eq!(scene.client.act("error", &scene.near), "ECONNRESET");
    scene.client.close(&scene.near);
    scene.end().reasons("reset_received", "reset_sent");
}

/// The kernel closes for a process that is no more; the owner stays.
fn killed_process() {
    let scene = Scene::set();
    let Scene {
        stage,
        client,
        mut server,
        near,
        far,
        pair,
    } = scene;
    client.kill();
    server.act("eof", &far);
    server.close(&far);
    let told = stage.end(0, &[]);
    told.check(&[pair], &[]);
    Ended { told, near, far }.reasons("normal", "normal");
}
