// Ends the process rather than let it reach beyond this machine: a test that does is wrong.
import dns from 'node:dns'
import { Socket } from 'node:net'

const local = /^(localhost|127\.\d+\.\d+\.\d+|::1)$/

/** Holds from now on for every TCP and TLS connection; DNS questions go to a closed loopback port. */
export function stayOnLoopback() {
  dns.setServers(['127.0.0.1:1'])
  const connect = Socket.prototype.connect
  Socket.prototype.connect = function (...args) {
    const [first, second] = Array.isArray(args[0]) ? args[0] : args
    const options = typeof first === 'object' ? first : { port: first, host: typeof second === 'string' ? second : undefined }
    const host = options.host ?? 'localhost'
    if (!options.path && !local.test(host)) {
      process.stderr.write(`serve.mjs: refused to connect to ${host}:${options.port}\n`)
      process.exit(9)
    }
    return connect.apply(this, args)
  }
}
