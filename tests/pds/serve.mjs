// Runs a real Personal Data Server and its PLC directory on free loopback ports:
//
//     node serve.mjs DIR [PORT [SERVES [PLC]]]
//
// DIR as tests/pds/install was given it, PORT of the PDS (0: a free one), SERVES how far its stream goes back, in milliseconds,
// PLC the URL of the directory of another one, to be used instead of its own.
//
// When both answer, one line of JSON is printed: {"pds","plc","adminPassword"}. It ends when standard input is closed or on
// SIGTERM, and takes its data with it. LOG_ENABLED=true writes the PDS's log to standard error.
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { stayOnLoopback } from './loopback.mjs'
import { startPlc } from './plc.mjs'

const require = createRequire(join(resolve(process.argv[2] ?? 'target/pds'), 'package.json'))
const data = mkdtempSync(join(tmpdir(), 'penstock-pds-'))
process.on('exit', () => rmSync(data, { recursive: true, force: true }))
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0))
process.stdin.on('close', () => process.exit(0)).resume()
stayOnLoopback()

const rotationKey = '5e'.repeat(32)
const plc = process.argv[5] ?? (await startPlc(require, rotationKey))

// Bound before the PDS is made, for its configuration must know the port; it then takes this socket over.
const bound = createServer().listen(Number(process.argv[3] ?? 0), '127.0.0.1')
await once(bound, 'listening')
const { port } = bound.address()

// Nothing of the caller's environment configures it: no crawlers, AppView, moderation, mail or entryway.
for (const name of Object.keys(process.env)) if (name.startsWith('PDS_')) delete process.env[name]
const adminPassword = 'admin-password'
mkdirSync(join(data, 'blobs'))
Object.assign(process.env, {
  LOG_ENABLED: process.env.LOG_ENABLED ?? 'false',
  LOG_DESTINATION: '/dev/stderr',
  PDS_PORT: String(port),
  PDS_HOSTNAME: 'localhost',
  PDS_REPO_BACKFILL_LIMIT_MS: process.argv[4] ?? String(24 * 3600 * 1000),
  PDS_DEV_MODE: 'true',
  PDS_DATA_DIRECTORY: data,
  PDS_BLOBSTORE_DISK_LOCATION: join(data, 'blobs'),
  PDS_BLOBSTORE_DISK_TMP_LOCATION: join(data, 'blobs-tmp'),
  PDS_DID_PLC_URL: plc,
  PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX: rotationKey,
  PDS_JWT_SECRET: 'jwt-secret',
  PDS_ADMIN_PASSWORD: adminPassword,
  PDS_INVITE_REQUIRED: 'false',
  PDS_SERVICE_HANDLE_DOMAINS: '.test',
  PDS_RATE_LIMITS_ENABLED: 'false',
})

const { PDS, envToCfg, envToSecrets, readEnv } = require('@atproto/pds')
const env = readEnv()
const pds = await PDS.create(envToCfg(env), envToSecrets(env))
const listen = pds.app.listen
pds.app.listen = () => listen.call(pds.app, bound)
await pds.start()
console.log(JSON.stringify({ pds: `http://127.0.0.1:${port}`, plc, adminPassword }))
