//! What the path of a cgroup says of the process in it: container, pod, systemd unit.
//!
//! The path is that of the unified hierarchy, or of a version 1 controller. Container runtimes name the
//! cgroups they make, and so do systemd and Kubernetes: no daemon has to be asked.

/// Digits of a container id.
pub const ID_LEN: usize = 64;

/// What stands before a container id in the name of its cgroup. Monitors of a container
/// (`libpod-conmon-`, `crio-conmon-`) have its id in the names of their own cgroups, outside of it.
pub const RUNTIMES: [&str; 8] = [
    "",
    "docker-",
    "cri-containerd-",
    "crio-",
    "libpod-",
    "libpod-payload-",
    "nerdctl-",
    "containerd-",
];

/// Kinds of systemd units that have processes, apart from slices, which only contain others.
const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// What a cgroup's path names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Container id, 64 hexadecimal digits
    pub container: Option<String>,
    /// UID of the Kubernetes pod
    pub pod_uid: Option<String>,
    /// Unit of the host's systemd, or of the user's
    pub unit: Option<String>,
}

impl Names {
    /// Whether the path names nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads a path as in `/proc/PID/cgroup`, below the mount point. Of containers within each other,
    /// the innermost is meant, and a unit inside a container is no unit of the host's.
    pub fn of_path(path: &str) -> Self {
        let mut names = Self::default();
        for component in path.split('/') {
            if let Some(uid) = pod_uid(component) {
                names.pod_uid = Some(uid);
            }
            let inside = names.container.is_some();
            let id = container(component);
            if !inside && UNITS.iter().any(|kind| component.ends_with(kind)) {
                names.unit = Some(component.to_owned());
            }
            if let Some(id) = id {
                names.container = Some(id.to_owned());
            }
        }
        names
    }

    /// Reads `/proc/PID/cgroup`: a line for each hierarchy, `ID:CONTROLLERS:PATH`. Where version 1 and
    /// version 2 are mounted both, a runtime may use either.
    pub fn of_proc(text: &str) -> Self {
        let mut names = Self::default();
        let mut lines: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let (_, rest) = line.split_once(':')?;
                rest.split_once(':')
            })
            .collect();
        // The unified hierarchy first, then systemd's own of version 1.
        lines.sort_by_key(|(controllers, _)| match *controllers {
            "" => 0,
            "name=systemd" => 1,
            _ => 2,
        });
        for (_, path) in lines {
            names.add(Self::of_path(path));
        }
        names
    }

    /// Takes from another hierarchy what is not known yet.
    pub fn add(&mut self, other: Self) {
        if self.container.is_none() {
            self.container = other.container;
        }
        if self.pod_uid.is_none() {
            self.pod_uid = other.pod_uid;
        }
        if self.unit.is_none() {
            self.unit = other.unit;
        }
    }
}

/// The container id in the name of a cgroup.
fn container(component: &str) -> Option<&str> {
    // containerd without its `SystemdCgroup`, given a path in systemd's form: `SLICE:cri-containerd:ID`.
    let last = component.rsplit(':').next()?;
    let name = last.strip_suffix(".scope").unwrap_or(last);
    RUNTIMES
        .into_iter()
        .filter_map(|runtime| name.strip_prefix(runtime))
        .find(|id| id.len() == ID_LEN && is_lower_hex(id))
}

/// The pod's UID in the name of a cgroup: `podUID`, or `kubepods-burstable-podUID.slice`, where
/// systemd wants underscores for the dashes. A static pod's is a hash without dashes.
fn pod_uid(component: &str) -> Option<String> {
    let first = component.split(':').next()?;
    let name = first.strip_suffix(".slice").unwrap_or(first);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None if name.contains("kubepods") => name.rsplit_once("-pod")?.1,
        None => return None,
    };
    let uid = uid.replace('_', "-");
    (is_uuid(&uid) || (uid.len() == 32 && is_lower_hex(&uid))).then_some(uid)
}

fn is_uuid(text: &str) -> bool {
    let lens = text.split('-').map(|part| {
        if is_lower_hex(part) {
            part.len()
        } else {
            usize::MAX
        }
    });
    lens.eq([8, 4, 4, 4, 12])
}

/// Whether these are hexadecimal digits as runtimes write them.
pub fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9c4b1cbf5d2a8e0f7e3f65d2d8c9a54e1b6a3f0c7d2e9b8a4f5c6d7e8f901234";
    const OUTER: &str = "0000000000000000000000000000000000000000000000000000000000000001";
    const POD: &str = "2f3a8c1e-7b6d-4c5a-9e8f-0a1b2c3d4e5f";
    const POD_: &str = "2f3a8c1e_7b6d_4c5a_9e8f_0a1b2c3d4e5f";
    const STATIC_POD: &str = "5dbd4e1a0b9c8d7e6f5a4b3c2d1e0f9a";

    /// Real shapes, with `ID`, `OUTER`, `POD` and `POD_` in place of the numbers: path, container, pod,
    /// unit.
    const PATHS: &[(&str, bool, &str, &str)] = &[
        // Docker, systemd driver, cgroup v2 and v1
        ("/system.slice/docker-ID.scope", true, "", "docker-ID.scope"),
        // Docker, cgroupfs driver
        ("/docker/ID", true, "", ""),
        // Docker with `--cgroup-parent`
        ("/batch.slice/docker-ID.scope", true, "", "docker-ID.scope"),
        // Docker, rootless
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
            true,
            "",
            "docker-ID.scope",
        ),
        // systemd in a Docker container
        ("/docker/ID/system.slice/nginx.service", true, "", ""),
        (
            "/system.slice/docker-ID.scope/init.scope",
            true,
            "",
            "docker-ID.scope",
        ),
        // kind: Kubernetes in Docker
        (
            "/docker/OUTER/kubelet/kubepods/burstable/podPOD/ID",
            true,
            POD,
            "",
        ),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-podPOD_.slice/cri-containerd-ID.scope",
            true,
            POD,
            "cri-containerd-ID.scope",
        ),
        // containerd: nerdctl, and its default namespace with cgroupfs
        (
            "/system.slice/nerdctl-ID.scope",
            true,
            "",
            "nerdctl-ID.scope",
        ),
        ("/default/ID", true, "", ""),
        // Kubernetes with containerd, systemd driver: each class of service
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/cri-containerd-ID.scope",
            true,
            POD,
            "cri-containerd-ID.scope",
        ),
        (
            "/kubepods.slice/kubepods-podPOD_.slice/cri-containerd-ID.scope",
            true,
            POD,
            "cri-containerd-ID.scope",
        ),
        // cgroupfs driver
        ("/kubepods/besteffort/podPOD/ID", true, POD, ""),
        ("/kubepods/podPOD/ID", true, POD, ""),
        // A pod's own sandbox, without a container
        ("/kubepods/besteffort/podPOD", false, POD, ""),
        // The kubelet says systemd, containerd says cgroupfs
        (
            "/system.slice/containerd.service/kubepods-burstable-podPOD_.slice:cri-containerd:ID",
            true,
            POD,
            "containerd.service",
        ),
        // A static pod, as etcd's of kubeadm
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice/cri-containerd-ID.scope",
            true,
            STATIC_POD,
            "cri-containerd-ID.scope",
        ),
        // CRI-O, with runc and with crun; its monitor; cgroupfs
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPOD_.slice/crio-ID.scope",
            true,
            POD,
            "crio-ID.scope",
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPOD_.slice/crio-ID.scope/container",
            true,
            POD,
            "crio-ID.scope",
        ),
        (
            "/system.slice/crio-conmon-ID.scope",
            false,
            "",
            "crio-conmon-ID.scope",
        ),
        ("/kubepods/besteffort/podPOD/crio-ID", true, POD, ""),
        // Podman as root, its monitor, a pod of its own, cgroupfs
        (
            "/machine.slice/libpod-ID.scope/container",
            true,
            "",
            "libpod-ID.scope",
        ),
        (
            "/machine.slice/libpod-conmon-ID.scope",
            false,
            "",
            "libpod-conmon-ID.scope",
        ),
        (
            "/machine.slice/machine-libpod_pod_OUTER.slice/libpod-ID.scope/container",
            true,
            "",
            "libpod-ID.scope",
        ),
        ("/libpod_parent/libpod-ID", true, "", ""),
        ("/libpod_parent/libpod-conmon-ID", false, "", ""),
        // Podman, rootless
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            true,
            "",
            "libpod-ID.scope",
        ),
        // Quadlet: the container within its unit
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-ID",
            true,
            "",
            "web.service",
        ),
        (
            "/system.slice/web.service/runtime",
            false,
            "",
            "web.service",
        ),
        // Amazon ECS
        ("/ecs/0123456789abcdef0123456789abcdef/ID", true, "", ""),
        // As another cgroup namespace sees it
        ("/../docker-ID.scope", true, "", "docker-ID.scope"),
        // No container
        ("/", false, "", ""),
        ("/init.scope", false, "", "init.scope"),
        ("/system.slice/nginx.service", false, "", "nginx.service"),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            false,
            "",
            "getty@tty1.service",
        ),
        (
            "/user.slice/user-1000.slice/session-4.scope",
            false,
            "",
            "session-4.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope",
            false,
            "",
            "app-gnome-firefox-4711.scope",
        ),
        ("/system.slice", false, "", ""),
        (
            "/lxc.payload.web/system.slice/cron.service",
            false,
            "",
            "cron.service",
        ),
        // Too short, too long, capital digits
        ("/docker/9c4b1cbf5d2a", false, "", ""),
        ("/docker/ID0", false, "", ""),
        ("/pods/podium", false, "", ""),
    ];

    fn real(shape: &str) -> String {
        shape
            .replace("STATIC", STATIC_POD)
            .replace("POD_", POD_)
            .replace("POD", POD)
            .replace("OUTER", OUTER)
            .replace("ID", ID)
    }

    #[test]
    fn real_paths() {
        let known = |text: &str| (!text.is_empty()).then(|| real(text));
        for &(shape, in_container, pod, unit) in PATHS {
            let expected = Names {
                container: in_container.then(|| ID.to_owned()),
                pod_uid: known(pod),
                unit: known(unit),
            };
            assert_eq!(Names::of_path(&real(shape)), expected, "{shape}");
        }
        assert_eq!(
            Names::of_path(&format!("/docker/{}", ID.to_uppercase())),
            Names::default()
        );
    }

    #[test]
    fn both_versions_of_cgroups() {
        let hybrid = format!(
            "12:pids:/docker/{ID}\n11:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n\
             0::/system.slice/containerd.service\n"
        );
        let names = Names::of_proc(&hybrid);
        assert_eq!(names.container.as_deref(), Some(ID));
        assert_eq!(names.unit.as_deref(), Some("containerd.service"));

        let version_1 = "4:memory:/user.slice\n1:name=systemd:/user.slice/session-4.scope\n";
        assert_eq!(
            Names::of_proc(version_1).unit.as_deref(),
            Some("session-4.scope")
        );

        let version_2 = format!("0::/system.slice/docker-{ID}.scope\n");
        assert_eq!(Names::of_proc(&version_2).container.as_deref(), Some(ID));
        assert!(Names::of_proc("").is_empty());
        assert!(Names::of_proc("nonsense\n0:\n::\n").is_empty());
    }
}
