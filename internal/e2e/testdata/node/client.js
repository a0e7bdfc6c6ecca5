// What a user of acme-client writes: it reads its orders from the environment, one JSON object a line on stdout is its answer.
const acme = require('acme-client');
const fs = require('fs');
const path = require('path');

const env = process.env;
const names = env.NAMES.split(',');
const say = (what) => console.log(JSON.stringify(what));

async function main() {
  acme.axios.defaults.proxy = false;
  const client = new acme.Client({
    directoryUrl: env.SEGL_ACME_DIRECTORY,
    accountKey: await acme.crypto.createPrivateEcdsaKey(),
    externalAccountBinding: env.EAB_KID ? { kid: env.EAB_KID, hmacKey: env.EAB_KEY } : undefined,
    backoffMin: 500,
  });
  const [key, csr] = await acme.crypto.createCsr({ commonName: names[0], altNames: names });
  const certificate = await client.auto({
    csr,
    email: 'ops@demo.test',
    termsOfServiceAgreed: true,
    skipChallengeVerification: true,
    challengePriority: ['http-01'],
    challengeCreateFn: async (authz, challenge, keyAuthorization) => {
      fs.writeFileSync(path.join(env.CHALLENGES, challenge.token), keyAuthorization);
    },
    challengeRemoveFn: async (authz, challenge) => {
      fs.rmSync(path.join(env.CHALLENGES, challenge.token), { force: true });
    },
  });
  say({ did: 'issued', certificate });
  await client.updateAccountKey(await acme.crypto.createPrivateEcdsaKey());
  say({ did: 'changed its key', account: client.getAccountUrl() });
  await client.revokeCertificate(certificate, { reason: 4 });
  say({ did: 'revoked' });
  await client.updateAccount({ status: 'deactivated' });
  say({ did: 'left' });
}

main().catch((err) => {
  console.error(err.message);
  process.exit(1);
});
