//! The manifests of `deploy/kubernetes`, as kustomize renders them: valid under the published schemas,
//! consistent in themselves, and started with the real binary. What only a cluster can show is not
//! tested here.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::binary::{self, Running};
use common::{cert, tools};
use serde_json::Value;

const OVERLAYS: [&str; 4] = ["base", "load-balancer", "every-node", "mesh"];

/// The oldest Kubernetes whose schemas the manifests need (`unhealthyPodEvictionPolicy`), and a new one.
const VERSIONS: [&str; 2] = ["1.27", "1.37"];

/// The seconds between the end of a drain and SIGKILL that the server has at least.
const SPARE: u64 = 5;

fn have_kustomize() -> bool {
    tools::have(&["kubectl", "version", "--client"], "Kustomize Version")
}

fn have_validator() -> bool {
    // PyYAML comes with it.
    tools::have(
        &["python3", "-c", "import kubernetes_validate, yaml; print('has both')"],
        "has both",
    )
}

/// An overlay as YAML.
fn render(overlay: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes").join(overlay);
    let output = tools::run(Command::new("kubectl").arg("kustomize").arg(directory), b"");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{overlay}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// The objects of an overlay.
fn objects(overlay: &str) -> Vec<Value> {
    const CONVERT: &str =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    let convert = &mut Command::new("python3");
    let output = tools::run(convert.args(["-c", CONVERT]), render(overlay).as_bytes());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The Deployment or the DaemonSet of an overlay.
fn workload(objects: &[Value]) -> &Value {
    let workloads = [of_kind(objects, "Deployment"), of_kind(objects, "DaemonSet")].concat();
    assert_eq!(workloads.len(), 1, "{workloads:?}");
    workloads[0]
}

fn container(workload: &Value) -> &Value {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// A list of objects, which may be missing.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The names and protocols of the container's ports.
fn ports(container: &Value) -> BTreeSet<(&str, &str)> {
    list(&container["ports"])
        .map(|port| (port["name"].as_str().unwrap(), port["protocol"].as_str().unwrap()))
        .collect()
}

/// Validates YAML against the schemas of a version, in which no unknown field passes.
fn is_valid(yaml: &str, version: &str) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("objects.yaml");
    fs::write(&file, yaml).unwrap();
    let mut validate = Command::new("python3");
    validate.args(["-m", "kubernetes_validate", "--strict", "-k", version]).arg(file);
    let output = tools::run(&mut validate, b"");
    let said = [output.stdout, output.stderr].concat();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(said).unwrap()),
    }
}

#[test]
fn every_overlay_is_valid_under_the_published_schemas() {
    if !have_kustomize() || !have_validator() {
        return;
    }
    for overlay in OVERLAYS {
        let yaml = render(overlay);
        for version in VERSIONS {
            is_valid(&yaml, version).unwrap_or_else(|why| panic!("{overlay}, {version}: {why}"));
        }
    }
    let misspelt = render("base").replace("containerPort:", "containerport:");
    is_valid(&misspelt, VERSIONS[0]).expect_err("an unknown field is refused");
}

#[test]
fn pods_pass_the_restricted_standard_and_are_bounded() {
    if !have_kustomize() || !have_validator() {
        return;
    }
    for overlay in OVERLAYS {
        let objects = objects(overlay);
        let enforced = &of_kind(&objects, "Namespace")[0]["metadata"]["labels"];
        assert_eq!(enforced["pod-security.kubernetes.io/enforce"], "restricted");
        let workload = workload(&objects);
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], 65532);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        for forbidden in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[forbidden].is_null(), "{overlay}: {forbidden}");
        }
        for volume in list(&pod["volumes"]) {
            assert!(volume["hostPath"].is_null(), "{overlay}: {volume}");
        }
        let container = container(workload);
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert!(list(&container["ports"]).all(|port| port["hostPort"].is_null()), "{overlay}");
        for kind in ["requests", "limits"] {
            for resource in ["cpu", "memory"] {
                assert!(container["resources"][kind][resource].is_string(), "{kind} {resource}");
            }
        }
        // 128 MiB, of which a quarter may be unsent echoes: 12 KiB for each connection besides.
        assert_eq!(container["resources"]["limits"]["memory"], "128Mi");
        assert_eq!(flag(&arguments(workload), "max-connections"), "8000");
    }
}

#[test]
fn what_the_objects_refer_to_exists() {
    if !have_kustomize() || !have_validator() {
        return;
    }
    for overlay in OVERLAYS {
        let objects = objects(overlay);
        let workload = workload(&objects);
        let (container, labels) =
            (container(workload), &workload["spec"]["template"]["metadata"]["labels"]);
        let ports = ports(container);
        assert_eq!(ports.len(), 6, "{overlay} has lost a port: {ports:?}");
        assert_eq!(&workload["spec"]["selector"]["matchLabels"], labels);

        let services = of_kind(&objects, "Service");
        assert_eq!(services.len(), 3);
        for service in services {
            assert_eq!(&service["spec"]["selector"], labels, "{service}");
            for port in list(&service["spec"]["ports"]) {
                let target = port["targetPort"].as_str().unwrap();
                assert!(ports.contains(&(target, port["protocol"].as_str().unwrap())), "{service}");
            }
        }
        let policy = &of_kind(&objects, "NetworkPolicy")[0]["spec"];
        assert_eq!(&policy["podSelector"]["matchLabels"], labels);
        let admitted = list(&policy["ingress"]).flat_map(|rule| list(&rule["ports"]));
        let admitted: BTreeSet<_> = admitted
            .map(|port| (port["port"].as_str().unwrap(), port["protocol"].as_str().unwrap()))
            .collect();
        assert_eq!(admitted, ports);
        for budget in of_kind(&objects, "PodDisruptionBudget") {
            assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
        }
        let pod = &workload["spec"]["template"]["spec"];
        for spread in list(&pod["topologySpreadConstraints"]) {
            assert_eq!(&spread["labelSelector"]["matchLabels"], labels);
        }
        let image = container["image"].as_str().unwrap();
        assert_eq!(image, concat!("echo-server:", env!("CARGO_PKG_VERSION")));
        for (probe, path) in [
            ("startupProbe", "/readyz"),
            ("readinessProbe", "/readyz"),
            ("livenessProbe", "/livez"),
        ] {
            assert_eq!(container[probe]["httpGet"]["port"], "admin");
            assert_eq!(container[probe]["httpGet"]["path"], path);
        }
    }
}

#[test]
fn each_overlay_is_what_its_name_says() {
    if !have_kustomize() || !have_validator() {
        return;
    }
    let objects_of = OVERLAYS.map(objects);
    let [base, balanced, everywhere, mesh] = &objects_of;
    let kind_of = |objects| workload(objects)["kind"].as_str().unwrap();
    assert_eq!(
        [base, balanced, everywhere, mesh].map(|o| kind_of(o)),
        ["Deployment", "Deployment", "DaemonSet", "DaemonSet"]
    );
    let with = |objects: &[Value], field: &str, value: &str| {
        let services = of_kind(objects, "Service").into_iter();
        services.filter(|service| service["spec"][field] == value).count()
    };
    assert_eq!(with(base, "type", "LoadBalancer"), 0);
    assert_eq!(with(balanced, "type", "LoadBalancer"), 2);
    assert_eq!(with(balanced, "externalTrafficPolicy", "Local"), 2);
    assert_eq!(with(everywhere, "internalTrafficPolicy", "Local"), 2);
    assert_eq!(of_kind(balanced, "PodDisruptionBudget").len(), 1);
    assert_eq!(of_kind(everywhere, "PodDisruptionBudget").len(), 0);
    for quiet in [base, balanced, everywhere] {
        assert_eq!(of_kind(quiet, "NetworkPolicy")[0]["spec"]["egress"], serde_json::json!([]));
    }
}

#[test]
fn the_pods_of_the_mesh_find_and_reach_each_other() {
    if !have_kustomize() || !have_validator() {
        return;
    }
    let objects = objects("mesh");
    let workload = workload(&objects);
    let arguments = arguments(workload);
    let peers = flag(&arguments, "mesh");
    let services = of_kind(&objects, "Service");
    let service = services.iter().find(|service| service["metadata"]["name"] == peers).unwrap();
    assert_eq!(service["spec"]["clusterIP"], "None", "its name has the pods' own addresses");
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true);

    let (container, labels) =
        (container(workload), &workload["spec"]["template"]["metadata"]["labels"]);
    let mounted = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert_eq!(flag(&arguments, "mesh-ca"), format!("{mounted}/ca.crt"));
    let name = &container["env"][0];
    assert_eq!(name["name"], "ECHO_MESH_NAME");
    assert_eq!(name["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");

    // To the pods, exactly the ports that they have, the admin endpoint's included; to name servers,
    // port 53.
    let policy = &of_kind(&objects, "NetworkPolicy")[0]["spec"];
    let numbers = |ports: &Value, number: &str| -> BTreeSet<(u64, String)> {
        list(ports)
            .map(|port| (port[number].as_u64().unwrap(), port["protocol"].as_str().unwrap().into()))
            .collect()
    };
    let [to_pods, to_names] = policy["egress"].as_array().unwrap().as_slice() else {
        panic!("{policy}")
    };
    assert_eq!(numbers(&to_pods["ports"], "port"), numbers(&container["ports"], "containerPort"));
    let dns = [(53, "TCP".to_owned()), (53, "UDP".to_owned())];
    assert_eq!(numbers(&to_names["ports"], "port"), BTreeSet::from(dns));
    let pods = serde_json::json!([{ "podSelector": { "matchLabels": labels } }]);
    assert_eq!(to_pods["to"], pods, "no other pods");
    let admin = list(&policy["ingress"]).find(|rule| rule["ports"][0]["port"] == "admin").unwrap();
    assert!(list(&admin["from"]).any(|from| *from == pods[0]), "{admin}");
}

/// The value of a flag, `--flag=value`, among the container's arguments.
fn flag<'a>(arguments: &[&'a str], name: &str) -> &'a str {
    let found = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no --{name}"))
}

fn arguments(workload: &Value) -> Vec<&str> {
    list(&container(workload)["args"]).map(|argument| argument.as_str().unwrap()).collect()
}

#[test]
fn the_grace_period_and_the_readiness_probe_cover_the_drain() {
    if !have_kustomize() || !have_validator() {
        return;
    }
    for overlay in OVERLAYS {
        let objects = objects(overlay);
        let workload = workload(&objects);
        let arguments = arguments(workload);
        let seconds = |name| -> u64 {
            let time = flag(&arguments, name);
            time.strip_suffix('s')
                .unwrap_or_else(|| panic!("{time} is in seconds"))
                .parse()
                .unwrap()
        };
        let grace = &workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
        let needed = seconds("drain-delay") + seconds("drain-timeout") + SPARE;
        assert_eq!(grace.as_u64(), Some(needed), "{overlay}");
        // The first failure can come right after SIGTERM, and the last one must not come before the
        // listeners close: until then kube-proxy may have no other pod on its node.
        let probe = &container(workload)["readinessProbe"];
        let number = |name: &str| probe[name].as_u64().unwrap();
        let notices = (number("failureThreshold") - 1) * number("periodSeconds");
        assert!(notices >= seconds("drain-delay"), "{overlay}: not ready after {notices} s");
    }
}

/// A volume of a Secret as the kubelet lays it out: the files are links into `..data`, which is a link
/// to a directory of this version. An update replaces that link, and all files change at once.
struct SecretVolume {
    directory: tempfile::TempDir,
}

impl SecretVolume {
    fn new(version: &str, certificate: &Path, key: &Path) -> SecretVolume {
        let volume = SecretVolume { directory: tempfile::tempdir().unwrap() };
        volume.update(version, certificate, key);
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(file), volume.path().join(file)).unwrap();
        }
        volume
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn update(&self, version: &str, certificate: &Path, key: &Path) {
        let (data, new) = (self.path().join("..data"), self.path().join("..data_tmp"));
        let old = fs::read_link(&data).ok();
        let directory = self.path().join(version);
        fs::create_dir(&directory).unwrap();
        fs::copy(certificate, directory.join("tls.crt")).unwrap();
        fs::copy(key, directory.join("tls.key")).unwrap();
        fs::copy(cert("ca.pem"), directory.join("ca.crt")).unwrap();
        symlink(version, &new).unwrap();
        fs::rename(&new, &data).unwrap();
        if let Some(old) = old {
            fs::remove_dir_all(self.path().join(old)).unwrap();
        }
    }
}

#[test]
fn a_secret_that_is_updated_is_read_again() {
    let other = tempfile::tempdir().unwrap();
    let made = binary::command().arg("certs").arg(other.path().join("new")).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let new = |name: &str| other.path().join("new").join(name);

    let volume = SecretVolume::new("..2026_01_01", &cert("server.pem"), &cert("server.key"));
    let file = |name: &str| volume.path().join(name).display().to_string();
    let server =
        Running::start(&["--tls", "0", "--cert", &file("tls.crt"), "--key", &file("tls.key")]);
    let url = format!("tls://{}", server.address("tls"));
    let trusts = |ca: &Path| {
        let mut probe = binary::command();
        probe.args(["probe", &url, "--server-name", "localhost", "--count", "1", "--ca"]).arg(ca);
        probe.output().unwrap().status.success()
    };
    assert!(trusts(&cert("ca.pem")) && !trusts(&new("ca.pem")));
    volume.update("..2026_02_02", &new("server.pem"), &new("server.key"));
    server.wait_for_line("Certificates reloaded");
    assert!(!trusts(&cert("ca.pem")) && trusts(&new("ca.pem")));
}

#[test]
fn the_arguments_start_a_server_on_the_containers_ports() {
    // A network namespace, since the ports are fixed ones.
    const ALONE: &str =
        "exec unshare --net --map-root-user sh -c 'ip link set lo up && exec \"$@\"' sh \"$@\"";
    let can_unshare =
        ["unshare", "--net", "--map-root-user", "sh", "-c", "ip link set lo up && echo up"];
    if !have_kustomize() || !have_validator() || !tools::have(&can_unshare, "up") {
        return;
    }
    let volume = SecretVolume::new("..2026_01_01", &cert("server.pem"), &cert("server.key"));
    for overlay in OVERLAYS {
        let objects = objects(overlay);
        let workload = workload(&objects);
        let mounted = container(workload)["volumeMounts"][0]["mountPath"].as_str().unwrap();
        let arguments: Vec<_> = arguments(workload)
            .into_iter()
            .map(|argument| argument.replace(mounted, volume.path().to_str().unwrap()))
            .collect();
        let server = Running::spawn(binary::shell(ALONE).arg(binary::PATH).args(arguments));
        let listeners = list(&server.ready["listeners"]).map(|listener| {
            let address = listener["address"].as_str().unwrap();
            let port = address.strip_prefix("[::]:").expect("all interfaces").parse().unwrap();
            (listener["protocol"].as_str().unwrap().to_owned(), port)
        });
        let listeners: BTreeSet<(String, u64)> = listeners.collect();
        let named = list(&container(workload)["ports"])
            .map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap()));
        let named: BTreeSet<_> = named
            .filter(|(name, _)| *name != "admin")
            .map(|(name, port)| (name.to_owned(), port))
            .collect();
        assert_eq!(listeners, named, "{overlay}");
    }
}
