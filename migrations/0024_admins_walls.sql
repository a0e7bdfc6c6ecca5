-- A tenant's admin comes to the operator listener and works behind the tenant wall there: what the role lets it change in its own
-- scope and below, the wall has to let it write. Nothing above is written, nor anything of another tenant's.

-- +goose Up

UPDATE walled_table
SET    may = 'SELECT, INSERT, UPDATE', writes = 'scope = {mine}'
WHERE  name IN ('credential_target', 'credential_binding', 'enrolment_method');

SELECT raise_wall(name, name)
FROM   walled_table
WHERE  name IN ('credential_target', 'credential_binding', 'enrolment_method');
