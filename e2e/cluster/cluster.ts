/**
 * A Kubernetes of three nodes on one machine: control plane on the machine itself, each node with containerd, kubelet
 * and kube-proxy in namespaces of its own (network, mounts, processes, cgroups), all on one bridge.
 *
 * Its processes end with the one that brought it up, however that ends. There is one cluster on a machine at a time.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, open, readFile, writeFile } from "node:fs/promises";
import { request } from "node:https";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { cacheDirectory } from "./cache.ts";
import { CertificateAuthority } from "./certificates.ts";
import { run } from "./command.ts";
import { type Image, writeImages } from "./image.ts";
import { interrupted } from "./interruption.ts";
import { cgroupHierarchies, changeMachine, emptyCgroup, nodeDirectories, restoreMachine } from "./machine.ts";
import { pauseImage } from "./node-runtime.ts";

export const hostAddress = "10.250.0.1";
const serviceNetwork = "10.96.0.0/16";
const podNetwork = "10.244.0.0/16";
const dnsAddress = "10.96.0.10";
/** Not 53, which a resolver of the machine may have. */
const dnsPort = 10_053;
const bridge = "lever-bridge";
const upSecondsMax = 180;
/** Ends with this process, even if nobody can tell it to. */
const endWithParent = ["setpriv", "--pdeathsig", "KILL"] as const;

/** What a cluster is made of. */
export interface ClusterParts {
  /** Directories with programs, first to be searched. */
  readonly programs: readonly string[];
  /** Directories with what people use a cluster by: kubectl and helm. */
  readonly tools: readonly string[];
  readonly cniDirectory: string;
  /** What every node has from its start. */
  readonly images: readonly Image[];
}

interface Node {
  readonly name: string;
  readonly address: string;
  readonly pods: string;
  readonly network: string;
  readonly cgroups: readonly string[];
  readonly data: string;
}

export type Step = (name: string) => void;

export class Cluster {
  readonly nodes: readonly Node[];
  readonly #parts: ClusterParts;
  readonly #data = path.join(cacheDirectory, "cluster");
  readonly #authority = new CertificateAuthority(path.join(this.#data, "pki"));
  readonly #commands = new Map<string, readonly string[]>();
  readonly #running = new Map<string, ChildProcess>();
  #env: Readonly<Record<string, string>> = {};
  #hierarchies: readonly string[] = [];
  #imageIds: Readonly<Record<string, string>> = {};

  constructor(parts: ClusterParts, nodes = 3) {
    this.#parts = parts;
    this.nodes = Array.from({ length: nodes }, (_, index) => {
      const name = `n${index + 1}`;
      return {
        name,
        address: `10.250.0.${11 + index}`,
        pods: `10.244.${index + 1}.0/24`,
        network: `lever-${name}`,
        cgroups: [],
        data: path.join(this.#data, name),
      };
    });
  }

  get kubeconfig(): string {
    return path.join(this.#data, "pki/admin.kubeconfig");
  }

  /** Ids of the images that the nodes have, by name, as `imageID` in a pod's status. */
  get imageIds(): Readonly<Record<string, string>> {
    return this.#imageIds;
  }

  get #imageArchive(): string {
    return path.join(this.#data, "images.tar");
  }

  /** For kubectl, which would take what it knows of a former cluster at this address for true. */
  get kubectlCache(): string {
    return path.join(this.#data, "kubectl-cache");
  }

  /** The output of each process, in files named after it. */
  get logs(): string {
    return path.join(this.#data, "logs");
  }

  /** Where the kubelet of a node keeps the output of its pods. */
  podLogs(node: string): string {
    return path.join(this.#data, node, "var/log/pods");
  }

  /** Resolves when every node is Ready. The machine must have been prepared and restored. */
  async up(step: Step = () => {}): Promise<void> {
    await changeMachine(this.#data);
    for (const directory of ["pki", "logs", "etcd"]) await mkdir(path.join(this.#data, directory), { recursive: true });
    this.#hierarchies = await cgroupHierarchies();
    this.#env = { PATH: [...this.#parts.programs, process.env["PATH"]].join(":"), CLUSTER_LOGS: this.logs };
    const server = `https://${hostAddress}:6443`;
    await this.#certificates(server);
    step("certificates");
    this.#imageIds = await writeImages(this.#imageArchive, this.#parts.images);
    step("images");

    await run("ip", ["link", "add", bridge, "type", "bridge"]);
    await run("ip", ["address", "add", `${hostAddress}/24`, "dev", bridge]);
    await run("ip", ["link", "set", bridge, "up"]);
    await this.#defineControlPlane();
    await this.start("etcd");
    await this.start("kube-apiserver");
    for (const node of this.nodes) {
      await this.#connectNode(node);
      await this.#defineNode(node);
      await this.start(node.name);
    }
    step("processes started");

    await this.#until("the API server", async () => (await this.get("/readyz"))?.status === 200);
    step("API server ready");
    // Before the API server has written its first roles the one exits and the other waits for long.
    await this.start("kube-controller-manager");
    await this.start("kube-scheduler");
    await this.#until("the nodes", async () => {
      const nodes = (await this.get("/api/v1/nodes"))?.body as NodeList | undefined;
      return nodes?.items.filter(isReady).length === this.nodes.length;
    });
    await this.#until("the default service account", async () => {
      return (await this.get("/api/v1/namespaces/default/serviceaccounts/default"))?.status === 200;
    });
    step(`${this.nodes.length} nodes Ready`);

    const [programs] = this.#parts.programs as [string];
    await run(path.join(programs, "kubectl"), ["apply", "--filename=-"], {
      env: { KUBECONFIG: this.kubeconfig, KUBECACHEDIR: this.kubectlCache },
      input: JSON.stringify(dnsObjects),
    });
    await this.start("coredns");
    await this.#until("DNS", async () =>
      fetch(`http://${hostAddress}:8181/ready`).then(
        ({ ok }) => ok,
        () => false,
      ),
    );
    step("DNS ready");
  }

  async down(): Promise<void> {
    await Promise.all([...this.#running.keys()].map((name) => this.stop(name)));
    await restoreMachine();
  }

  /** Ends a node or a component of the control plane as a power loss would. */
  async stop(name: string): Promise<void> {
    const child = this.#running.get(name);
    if (child === undefined) return;
    this.#running.delete(name);
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  }

  /** Starts a node or a component that is defined and does not run. */
  async start(name: string): Promise<void> {
    const command = this.#commands.get(name);
    if (command === undefined) throw new Error(`no part of the cluster is called ${name}`);
    const running = this.#running.get(name);
    if (running?.exitCode === null && running.signalCode === null) return;
    const node = this.nodes.find((each) => each.name === name);
    // A machine that boots has no cgroups of former containers; for each of them the kubelet would need seconds.
    if (node !== undefined) for (const cgroup of this.#cgroupsOf(node)) await emptyCgroup(cgroup);
    const log = await open(path.join(this.logs, `${name}.log`), "a");
    const [program, ...args] = [...endWithParent, ...command];
    const env = { ...process.env, ...this.#env, ...(node === undefined ? {} : this.#nodeEnv(node)) };
    // In a session of its own: Ctrl-C is for this process, which still wants the logs.
    const child = spawn(program, args, { stdio: ["ignore", log.fd, log.fd], env, detached: true });
    await new Promise<void>((resolve, reject) => child.once("spawn", resolve).once("error", reject));
    await log.close();
    this.#running.set(name, child);
  }

  /** A program of the control plane goes on living, and does nothing until `resume`. */
  pause(name: string): void {
    this.#signal(name, "SIGSTOP");
  }

  resume(name: string): void {
    this.#signal(name, "SIGCONT");
  }

  #signal(name: string, signal: NodeJS.Signals): void {
    if (this.nodes.some((node) => node.name === name))
      throw new Error(`${name} is a node: of it only the outside stops`);
    const child = this.#running.get(name);
    if (child?.kill(signal) !== true) throw new Error(`${name} does not run`);
  }

  /** Asks the API server as admin; undefined if it does not answer. */
  async get(url: string): Promise<{ readonly status: number | undefined; readonly body: unknown } | undefined> {
    const [ca, cert, key] = await Promise.all([
      readFile(this.#authority.file("ca", "crt")),
      readFile(this.#authority.file("admin", "crt")),
      readFile(this.#authority.file("admin", "key")),
    ]);
    return new Promise((resolve) => {
      const asked = request(`https://${hostAddress}:6443${url}`, { ca, cert, key, agent: false, timeout: 2000 });
      asked.once("error", () => resolve(undefined));
      asked.once("timeout", () => asked.destroy());
      asked.once("response", (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.once("error", () => resolve(undefined));
        response.once("end", () => {
          const text = Buffer.concat(chunks).toString();
          const isJson = response.headers["content-type"]?.startsWith("application/json");
          resolve({ status: response.statusCode, body: isJson ? JSON.parse(text) : text });
        });
      });
      asked.end();
    });
  }

  async #until(what: string, ask: () => Promise<boolean>): Promise<void> {
    const end = performance.now() + upSecondsMax * 1000;
    while (!(await ask())) {
      interrupted.throwIfAborted();
      const ended = [...this.#running].find(([, child]) => child.exitCode !== null || child.signalCode !== null);
      if (ended !== undefined) throw new Error(`${ended[0]} has ended: see ${this.logs}/${ended[0]}.log`);
      if (performance.now() > end) throw new Error(`not within ${upSecondsMax} s: ${what}; logs are in ${this.logs}`);
      await sleep(50);
    }
  }

  async #certificates(server: string): Promise<void> {
    const authority = this.#authority;
    await authority.create();
    const serviceNames = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map((name) => `DNS:${name}`);
    const names = ["DNS:localhost", ...serviceNames, `IP:${hostAddress}`, "IP:10.96.0.1"].join(",");
    const clients = {
      admin: "/O=system:masters/CN=admin",
      "kube-controller-manager": "/CN=system:kube-controller-manager",
      "kube-scheduler": "/CN=system:kube-scheduler",
      "kube-proxy": "/CN=system:kube-proxy",
    };
    await Promise.all([
      authority.keyPair("service-accounts"),
      authority.issue("kube-apiserver", "/CN=kube-apiserver", names),
      authority.issue("etcd", "/CN=etcd", `IP:${hostAddress},IP:127.0.0.1`),
      authority.issue("kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client"),
      authority.issue("front-proxy", "/CN=front-proxy-client"),
      ...Object.entries(clients).map(async ([name, subject]) => {
        await authority.issue(name, subject);
        await authority.kubeconfig(name, server);
      }),
      ...this.nodes.map(async ({ name, address }) => {
        await authority.issue(name, `/O=system:nodes/CN=system:node:${name}`, `DNS:${name},IP:${address}`);
        await authority.kubeconfig(name, server);
      }),
    ]);
  }

  async #defineControlPlane(): Promise<void> {
    const file = (name: string, kind: "crt" | "key" | "pub") => this.#authority.file(name, kind);
    const kubeconfig = (name: string) => path.join(this.#data, `pki/${name}.kubeconfig`);
    const etcd = `https://${hostAddress}:2379`;
    this.#define("etcd", {
      name: "lever",
      "data-dir": path.join(this.#data, "etcd"),
      // Nothing of it is to outlive the machine.
      "unsafe-no-fsync": true,
      "log-level": "warn",
      "listen-client-urls": etcd,
      "advertise-client-urls": etcd,
      "client-cert-auth": true,
      "trusted-ca-file": file("ca", "crt"),
      "cert-file": file("etcd", "crt"),
      "key-file": file("etcd", "key"),
      "listen-peer-urls": "http://127.0.0.1:0",
      "initial-advertise-peer-urls": "http://127.0.0.1:0",
      "initial-cluster": "lever=http://127.0.0.1:0",
    });
    this.#define("kube-apiserver", {
      "etcd-servers": etcd,
      "etcd-cafile": file("ca", "crt"),
      "etcd-certfile": file("kube-apiserver", "crt"),
      "etcd-keyfile": file("kube-apiserver", "key"),
      "bind-address": hostAddress,
      "advertise-address": hostAddress,
      "secure-port": 6443,
      "tls-cert-file": file("kube-apiserver", "crt"),
      "tls-private-key-file": file("kube-apiserver", "key"),
      "client-ca-file": file("ca", "crt"),
      "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
      "service-account-key-file": file("service-accounts", "pub"),
      "service-account-signing-key-file": file("service-accounts", "key"),
      "service-cluster-ip-range": serviceNetwork,
      "authorization-mode": "Node,RBAC",
      "enable-admission-plugins": "NodeRestriction",
      "allow-privileged": true,
      "kubelet-client-certificate": file("kubelet-client", "crt"),
      "kubelet-client-key": file("kubelet-client", "key"),
      "kubelet-certificate-authority": file("ca", "crt"),
      "kubelet-preferred-address-types": "InternalIP",
      "requestheader-client-ca-file": file("ca", "crt"),
      "requestheader-allowed-names": "front-proxy-client",
      "requestheader-extra-headers-prefix": "X-Remote-Extra-",
      "requestheader-group-headers": "X-Remote-Group",
      "requestheader-username-headers": "X-Remote-User",
      "proxy-client-cert-file": file("front-proxy", "crt"),
      "proxy-client-key-file": file("front-proxy", "key"),
      // The machine itself has no kube-proxy, but a route to every pod.
      "enable-aggregator-routing": true,
      profiling: false,
    });
    for (const name of ["kube-controller-manager", "kube-scheduler"]) {
      this.#define(name, {
        kubeconfig: kubeconfig(name),
        "authentication-kubeconfig": kubeconfig(name),
        "authorization-kubeconfig": kubeconfig(name),
        "leader-elect": false,
        "bind-address": hostAddress,
        "kube-api-qps": 1000,
        "kube-api-burst": 2000,
        ...(name === "kube-scheduler"
          ? {}
          : {
              "service-account-private-key-file": file("service-accounts", "key"),
              "root-ca-file": file("ca", "crt"),
              "cluster-signing-cert-file": file("ca", "crt"),
              "cluster-signing-key-file": file("ca", "key"),
              "use-service-account-credentials": true,
              // Half of the default, for tests that wait for it.
              "node-monitor-grace-period": "20s",
              "node-monitor-period": "2s",
            }),
      });
    }
    const corefile = path.join(this.#data, "Corefile");
    await writeFile(corefile, dnsConfig(this.kubeconfig));
    this.#commands.set("coredns", ["coredns", "-conf", corefile]);
  }

  #define(name: string, flags: Readonly<Record<string, string | number | boolean>>): void {
    this.#commands.set(name, [name, ...Object.entries(flags).map(([flag, value]) => `--${flag}=${value}`)]);
  }

  /** Its network namespace, on the bridge, with routes between its pods, those of other nodes, and this machine. */
  async #connectNode({ name, network, address, pods }: Node): Promise<void> {
    const inside = (...args: string[]) => run("ip", ["-n", network, ...args]);
    await run("ip", ["netns", "add", network]);
    await run("ip", ["link", "add", network, "type", "veth", "peer", "name", "eth0", "netns", network]);
    await run("ip", ["link", "set", network, "master", bridge, "up"]);
    await inside("link", "set", "lo", "up");
    await inside("address", "add", `${address}/24`, "dev", "eth0");
    await inside("link", "set", "eth0", "up");
    await inside("route", "add", "default", "via", hostAddress);
    await run("ip", ["route", "add", pods, "via", address]);
    for (const other of this.nodes) {
      if (other.name !== name) await inside("route", "add", other.pods, "via", other.address);
    }
  }

  #cgroupsOf(node: Node): string[] {
    return this.#hierarchies.map((hierarchy) => path.join(hierarchy, node.network));
  }

  async #defineNode(node: Node): Promise<void> {
    for (const [index, cgroup] of this.#cgroupsOf(node).entries()) {
      await mkdir(cgroup);
      // In version 1 a new one has neither, and takes no process without.
      for (const file of ["cpuset.cpus", "cpuset.mems"]) {
        const hierarchy = this.#hierarchies[index] as string;
        if (!existsSync(path.join(hierarchy, file))) continue;
        await writeFile(path.join(cgroup, file), await readFile(path.join(hierarchy, file)));
      }
    }
    await mkdir(path.join(node.data, "cni"), { recursive: true });
    const write = (name: string, text: string) => writeFile(path.join(node.data, name), text);
    await write("resolv.conf", "nameserver 127.0.0.1\n");
    await write("containerd.toml", this.#containerdConfig(node));
    await write("cni/10-lever.conflist", JSON.stringify(podNetworkConfig(node)));
    await write("kubelet.json", JSON.stringify(this.#kubeletConfig(node)));
    this.#commands.set(node.name, ["bash", path.join(import.meta.dirname, "node-start.sh")]);
  }

  #nodeEnv(node: Node): Record<string, string> {
    return {
      NODE: node.name,
      NODE_NETWORK: node.network,
      NODE_CGROUPS: this.#cgroupsOf(node).join(" "),
      NODE_DATA: node.data,
      NODE_DIRECTORIES: nodeDirectories.join(" "),
      NODE_IMAGES: this.#imageArchive,
      NODE_ADDRESS: node.address,
      NODE_ZONE: `z${node.name.slice(1)}`,
      NODE_KUBECONFIG: path.join(this.#data, `pki/${node.name}.kubeconfig`),
      PROXY_KUBECONFIG: path.join(this.#data, "pki/kube-proxy.kubeconfig"),
      POD_NETWORK: podNetwork,
    };
  }

  #containerdConfig({ data }: Node): string {
    const unused = ["snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.aufs", "snapshotter.v1.devmapper"];
    const disabled = [...unused, "internal.v1.tracing", "tracing.processor.v1.otlp"];
    return `version = 2
disabled_plugins = ${JSON.stringify(disabled.map((name) => `io.containerd.${name}`))}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${pauseImage}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${this.#parts.cniDirectory}"
    conf_dir = "${data}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`;
  }

  #kubeletConfig(node: Node): unknown {
    return {
      apiVersion: "kubelet.config.k8s.io/v1beta1",
      kind: "KubeletConfiguration",
      failCgroupV1: false,
      cgroupDriver: "cgroupfs",
      cgroupRoot: "/",
      containerRuntimeEndpoint: "unix:///run/containerd/containerd.sock",
      authentication: {
        anonymous: { enabled: false },
        webhook: { enabled: true },
        x509: { clientCAFile: this.#authority.file("ca", "crt") },
      },
      authorization: { mode: "Webhook" },
      tlsCertFile: this.#authority.file(node.name, "crt"),
      tlsPrivateKeyFile: this.#authority.file(node.name, "key"),
      clusterDNS: [dnsAddress],
      clusterDomain: "cluster.local",
      resolvConf: path.join(node.data, "resolv.conf"),
      failSwapOn: false,
      makeIPTablesUtilChains: false,
      maxPods: 250,
      // The disk and the memory are those of the whole machine.
      evictionHard: { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
      imageGCHighThresholdPercent: 100,
      imageGCLowThresholdPercent: 99,
      nodeStatusUpdateFrequency: "4s",
      registryPullQPS: 0,
      kubeAPIQPS: 200,
      kubeAPIBurst: 400,
      eventRecordQPS: 0,
    };
  }
}

function podNetworkConfig({ pods }: Node): unknown {
  const ipam = {
    type: "host-local",
    dataDir: "/run/cni-ipam",
    ranges: [[{ subnet: pods }]],
    routes: [{ dst: "0.0.0.0/0" }],
  };
  return { cniVersion: "0.4.0", name: "lever", plugins: [{ type: "ptp", ipMasq: false, ipam }] };
}

/** CoreDNS runs beside the API server, so it knows no other names than the cluster's. */
function dnsConfig(kubeconfig: string): string {
  return `cluster.local:${dnsPort} {
  bind ${hostAddress}
  kubernetes {
    kubeconfig ${kubeconfig} lever-e2e
  }
  ready ${hostAddress}:8181
  errors
}
.:${dnsPort} {
  bind ${hostAddress}
  template ANY ANY {
    rcode NXDOMAIN
  }
}
`;
}

const dnsPorts = [
  { name: "dns", protocol: "UDP" },
  { name: "dns-tcp", protocol: "TCP" },
];
const dnsMetadata = { name: "kube-dns", namespace: "kube-system" };

const dnsObjects = {
  apiVersion: "v1",
  kind: "List",
  items: [
    {
      apiVersion: "v1",
      kind: "Service",
      metadata: dnsMetadata,
      spec: { clusterIP: dnsAddress, ports: dnsPorts.map((each) => ({ ...each, port: 53 })) },
    },
    {
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      metadata: { ...dnsMetadata, labels: { "kubernetes.io/service-name": "kube-dns" } },
      addressType: "IPv4",
      endpoints: [{ addresses: [hostAddress], conditions: { ready: true } }],
      ports: dnsPorts.map((each) => ({ ...each, port: dnsPort })),
    },
  ],
};

interface NodeList {
  readonly items: readonly {
    readonly status: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
  }[];
}

function isReady(node: NodeList["items"][number]): boolean {
  return node.status.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
}
