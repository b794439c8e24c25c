// Switchyard under PM2, beside a service that sends to it: `pm2 start ecosystem.config.cjs`.
//
// Where there is root, prefer systemd for Switchyard itself (deploy/systemd): it holds the port through a restart. PM2 does not, and an SDK
// throws away what it cannot send meanwhile.

// The `public_key` of the project in Switchyard's configuration. It lets a service send and nothing else, so it may stand here.
const key = process.env.SWITCHYARD_KEY ?? "00000000000000000000000000000000";

module.exports = {
  apps: [
    {
      name: "switchyard",
      script: "/usr/local/bin/switchyard",
      // Let the configuration read the trackers' DSNs from files, ${file:…}: PM2 writes every environment variable into its dump.
      args: "run --config /etc/switchyard/config.toml",
      // `journal.path` is relative to it.
      cwd: "/var/lib/switchyard",
      // A program, not a script for Node; and one of it: the journal and the port have one owner.
      interpreter: "none",
      exec_mode: "fork",
      instances: 1,
      // PM2 asks with SIGINT (SIGTERM when its daemon runs with PM2_KILL_SIGNAL=SIGTERM) and kills after this many milliseconds. Draining takes
      // up to 23 seconds; PM2's own default is 1.6. What is cut off is delivered after the next start.
      kill_timeout: 30_000,
      // Never give up: after 16 quick failures PM2 would leave it stopped, even once the configuration is mended.
      restart_delay: 2_000,
      max_restarts: 1_000_000,
    },
    {
      // An example service. What matters is one variable; `pm2 restart ecosystem.config.cjs --only api --update-env` puts it into force.
      name: "api",
      script: "server.js",
      cwd: "/srv/api",
      env: {
        SENTRY_DSN: `http://${key}@127.0.0.1:8484/1`,
      },
    },
  ],
};
