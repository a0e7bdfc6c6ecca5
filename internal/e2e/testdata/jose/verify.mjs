// Verifies a token as a service written for Node does: keys by discovery, then issuer, audience, type and algorithm.
import { createRemoteJWKSet, jwtVerify } from "jose";

const { ISSUER, AUDIENCE, TOKEN } = process.env;
const about = await (await fetch(`${ISSUER}/.well-known/openid-configuration`)).json();
const keys = createRemoteJWKSet(new URL(about.jwks_uri));
const want = { issuer: ISSUER, typ: "at+jwt", algorithms: ["ES256", "EdDSA"] };
const { payload } = await jwtVerify(TOKEN, keys, { ...want, audience: AUDIENCE });
console.log(`taken ${payload.sub}`);
try {
  await jwtVerify(TOKEN, keys, { ...want, audience: "https://other.test" });
  console.log("taken for another audience");
} catch {
  console.log("refused for another audience");
}
