// A PLC directory in memory: operations are checked as the real one checks them (by its own library), and documents
// have the shape that plc.directory serves.
import { createServer } from 'node:http'
import { once } from 'node:events'

const method = (did, name, key) => ({
  id: `${did}#${name}`,
  type: 'Multikey',
  controller: did,
  publicKeyMultibase: key.replace(/^did:key:/, ''),
})

const document = (did, op) => ({
  '@context': ['https://www.w3.org/ns/did/v1', 'https://w3id.org/security/multikey/v1'],
  id: did,
  alsoKnownAs: op.alsoKnownAs,
  verificationMethod: Object.entries(op.verificationMethods).map(([name, key]) => method(did, name, key)),
  service: Object.entries(op.services).map(([name, service]) => ({
    id: `#${name}`,
    type: service.type,
    serviceEndpoint: service.endpoint,
  })),
})

async function body(request) {
  let text = ''
  for await (const chunk of request.setEncoding('utf8')) text += chunk
  return JSON.parse(text)
}

/** Listens on a free loopback port. `require` resolves from where the packages are. Gives the base URL.
 *
 * POST /{did}/move with {"pds","key"} is what an account's owner does with a rotation key, here that of the PDSes (hex). */
export async function startPlc(require, rotationKey) {
  const { assureValidNextOp, createUpdateOp } = require('@did-plc/lib')
  const { cidForCbor } = require('@atproto/common')
  const { Secp256k1Keypair } = require('@atproto/crypto')
  const logs = new Map()

  async function moved(log, { pds, key }) {
    const signer = await Secp256k1Keypair.import(rotationKey)
    return createUpdateOp(log.at(-1).operation, signer, (last) => ({
      ...last,
      verificationMethods: { ...last.verificationMethods, atproto: key },
      services: { ...last.services, atproto_pds: { type: 'AtprotoPersonalDataServer', endpoint: pds } },
    }))
  }

  async function answer(request) {
    const [did, ...rest] = decodeURIComponent(request.url.slice(1)).split('/')
    const log = logs.get(did) ?? []
    if (request.method === 'POST') {
      const asked = await body(request)
      const operation = rest.join('/') === 'move' ? await moved(log, asked) : asked
      await assureValidNextOp(did, log, operation)
      logs.set(did, [...log, { operation, cid: await cidForCbor(operation), nullified: false, createdAt: new Date() }])
      return [200, {}]
    }
    const last = log.at(-1)?.operation
    if (!last) return [404, { message: `DID not registered: ${did}` }]
    if (rest.join('/') === 'log') return [200, log.map((entry) => entry.operation)]
    if (rest.join('/') === 'log/audit') return [200, log.map((entry) => ({ did, ...entry, cid: entry.cid.toString() }))]
    if (rest.join('/') === 'log/last') return [200, last]
    if (last.type === 'plc_tombstone') return [410, { message: `DID not available: ${did}` }]
    if (rest.join('/') === 'data') return [200, { did, ...last }]
    if (rest.length === 0) return [200, document(did, last)]
    return [404, { message: 'Not Found' }]
  }

  const server = createServer(async (request, response) => {
    const [status, json] = await answer(request).catch((error) => [400, { message: String(error) }])
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(json))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return `http://127.0.0.1:${server.address().port}`
}
