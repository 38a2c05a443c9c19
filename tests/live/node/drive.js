// One of Alibaba Cloud's JavaScript clients, driven by lines of JSON, so that one journey can be walked by all.
//
//   node drive.js CLIENT            endpoint and keys come from ENDPOINT, ACCESS_KEY_ID, ACCESS_KEY_SECRET
//   in   {"action": "CreateBackup", "params": {"DBClusterId": "pc-..."}}
//   out  {"answer": {...}} in wire names, or {"refusal": {...}} as the client shows an error to its user
'use strict';

const readline = require('readline');
const { ENDPOINT, ACCESS_KEY_ID, ACCESS_KEY_SECRET } = process.env;
const url = new URL(ENDPOINT);
const protocol = url.protocol.slice(0, -1);
const keys = { accessKeyId: ACCESS_KEY_ID, accessKeySecret: ACCESS_KEY_SECRET };
const VERSION = '2017-08-01';

// Each entry gives a function of an action and its parameters that resolves to the answer.
const CLIENTS = {
  'openapi-client': () => openapi('query'),
  'openapi-client-form': () => openapi('body'),
  'polardb20170801': generated,
  'pop-core-get': () => popCore('GET'),
  'pop-core-post': () => popCore('POST'),
};

function openapi(place) {
  const { default: Client, Config, OpenApiRequest, Params } = require('@alicloud/openapi-client');
  const { RuntimeOptions } = require('@alicloud/tea-util');
  const client = new Client(new Config({ ...keys, endpoint: url.host, protocol }));
  return async (action, params) => {
    const call = new Params({
      action,
      version: VERSION,
      protocol: 'HTTPS',
      pathname: '/',
      method: 'POST',
      authType: 'AK',
      style: 'RPC',
      reqBodyType: 'formData',
      bodyType: 'json',
    });
    return (await client.callApi(call, new OpenApiRequest({ [place]: params }), new RuntimeOptions({}))).body;
  };
}

function generated() {
  const { Config } = require('@alicloud/rpc-client');
  const product = require('@alicloud/polardb20170801');
  const { cast, toMap } = require('@alicloud/tea-typescript');
  const client = new product.default(new Config({ ...keys, endpoint: url.host, protocol, type: 'access_key' }));
  return async (action, params) => {
    const request = cast(params, new product[`${action}Request`]());
    const response = await client[action[0].toLowerCase() + action.slice(1)](request);
    const wrong = misfits(response, action);
    if (wrong.length) throw new Error(`not as the model says: ${wrong.join('; ')}`);
    return toMap(response);
  };
}

function popCore(method) {
  const { RPCClient } = require('@alicloud/pop-core');
  const client = new RPCClient({ ...keys, endpoint: ENDPOINT, apiVersion: VERSION });
  return (action, params) => client.request(action, params, { method });
}

// Where a response differs from the types that its own model declares; absent fields are allowed.
function misfits(model, place) {
  return Object.entries(model.constructor.types()).flatMap(([name, type]) => {
    const value = model[name];
    const where = `${place}.${name}`;
    if (value === undefined || value === null) return [];
    if (typeof type === 'string') return typeof value === type ? [] : [`${where} is a ${typeof value}`];
    if (type.type !== 'array') return misfits(value, where);
    if (!Array.isArray(value)) return [`${where} is no list`];
    return value.flatMap((one, n) => (typeof one === 'object' ? misfits(one, `${where}.${n}`) : []));
  });
}

async function main() {
  const call = CLIENTS[process.argv[2]]();
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { action, params } = JSON.parse(line);
    let out;
    try {
      out = { answer: await call(action, params) };
    } catch (error) {
      const { name, code, message, data } = error;
      out = { refusal: { name, code, message, data: data || {} } };
    }
    process.stdout.write(`${JSON.stringify(out)}\n`);
  }
  process.exit(0); // kept-alive connections would hold the process
}

main();
