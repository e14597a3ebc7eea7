"use strict";

const SECONDS = 120;
const WORDS = { standby: "Standby", offline: "Offline", calibrating: "Calibrating", connected: "Connected" };

const at = (id) => document.getElementById(id);
const token = document.querySelector('meta[name="token"]').content;

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? count : count.toFixed(count < 10 ? 2 : 1)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function line(values, most) {
  const first = SECONDS - values.length;
  return values.map((value, index) => `${first + index},${(39 - (value / most) * 37).toFixed(2)}`).join(" ");
}

function explain(report) {
  const troubles = report.bridges.filter((bridge) => bridge.trouble);
  switch (report.state) {
    case "connected":
      return "A request went through a bridge, and its answer came back.";
    case "calibrating":
      return "Loading a bridge's site and waiting for the bridge to prove itself.";
    default:
      return troubles.length ? troubles[0].trouble : "There is no bridge.";
  }
}

function bridge(report) {
  const item = document.createElement("li");
  item.dataset.state = report.state;
  const name = document.createElement("strong");
  name.textContent = `Bridge ${report.number}`;
  const word = document.createElement("span");
  word.textContent = WORDS[report.state];
  const more = document.createElement("span");
  more.className = "soft";
  const facts = [`cover ${report.cover}`, `profile ${report.profile}`];
  if (report.round_trip_ms !== null) facts.push(`round trip ${report.round_trip_ms} ms`);
  if (report.connected_seconds !== null) facts.push(`for ${duration(report.connected_seconds)}`);
  if (report.proved_seconds_ago !== null) facts.push(`last proof ${duration(report.proved_seconds_ago)} ago`);
  if (report.trouble !== null) facts.push(report.trouble);
  more.textContent = facts.join(" · ");
  item.append(name, word, more);
  return item;
}

function show(report) {
  at("state").dataset.state = report.state;
  at("word").textContent = WORDS[report.state];
  document.title = `${WORDS[report.state]} – QNet`;
  at("explain").textContent = explain(report);
  const { seconds, up, down, open, opened, failed } = report.traffic;
  const most = Math.max(1000, ...seconds.flat());
  at("up").setAttribute("points", line(seconds.map((second) => second[0]), most));
  at("down").setAttribute("points", line(seconds.map((second) => second[1]), most));
  at("most").textContent = `top: ${bytes(most)}/s`;
  at("total-up").textContent = bytes(up);
  at("total-down").textContent = bytes(down);
  at("open").textContent = open;
  at("opened").textContent = opened;
  at("failed").textContent = failed;
  at("bridges").replaceChildren(...report.bridges.map(bridge));
  at("uptime").textContent = `up ${duration(report.uptime_seconds)}`;
}

function gone() {
  at("state").dataset.state = "offline";
  at("word").textContent = "Not running";
  at("explain").textContent = "The proxy does not answer. Is it running?";
}

async function look() {
  try {
    const answer = await fetch("/status.json", { cache: "no-store" });
    show(await answer.json());
  } catch {
    gone();
  }
  setTimeout(look, 1000);
}

at("reconnect").addEventListener("click", async () => {
  const button = at("reconnect");
  button.disabled = true;
  try {
    await fetch("/reconnect", { method: "POST", headers: { "X-Qnet-Token": token } });
  } catch {
    gone();
  }
  button.disabled = false;
});

look();
