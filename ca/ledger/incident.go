package ledger

// touches says of an incident n whether it chose an intent i. What a certificate's intent says never changes, so the answer is
// the same for ever. It is the one place that knows: windows, previews, revocations and status all ask it.
const touches = `
		AND    i.serial >= n.since
		AND    i.serial < n.upto
		AND    (n.authority IS NULL OR n.authority = i.authority)
		AND    (n.profile IS NULL OR n.profile = i.profile)
		AND    (n.scope IS NULL OR EXISTS (SELECT FROM scope u WHERE u.id = i.scope AND n.scope IN (u.tenant, u.parent, u.path)))`
