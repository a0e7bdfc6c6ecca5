-- What Segl may do at a MariaDB server (10.5 or newer), and nothing else.
--
-- Run it as an administrator, once:  mariadb < mariadb.sql
-- and name the roles whose rights Segl may hand out:
--
--     GRANT shop_writers TO segl_owner@localhost WITH ADMIN OPTION;
--
-- Segl logs in as segl, by its certificate alone, and may call the procedures below. They run as segl_owner, which is locked,
-- and touch only accounts that they made (segl_ and twenty-one letters) and those in segl.certified.

CREATE USER IF NOT EXISTS segl_owner@localhost ACCOUNT LOCK;
CREATE USER IF NOT EXISTS segl@'%' REQUIRE SUBJECT '/CN=segl@platform';
CREATE DATABASE IF NOT EXISTS segl;
CREATE TABLE IF NOT EXISTS segl.certified (role varchar(80) PRIMARY KEY);
GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO segl_owner@localhost;
GRANT SELECT, UPDATE ON mysql.* TO segl_owner@localhost; -- UPDATE: SET DEFAULT ROLE of another asks for it
GRANT SELECT, INSERT, EXECUTE ON segl.* TO segl_owner@localhost;

DELIMITER //

CREATE OR REPLACE DEFINER = segl_owner@localhost PROCEDURE segl.demand(holds boolean, why varchar(128))
SQL SECURITY DEFINER
BEGIN
    IF holds IS NOT TRUE THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = why;
    END IF;
END //

CREATE OR REPLACE DEFINER = segl_owner@localhost PROCEDURE segl.judge(heir varchar(80), before_at datetime(6))
SQL SECURITY DEFINER
BEGIN
    CALL segl.demand(utc_timestamp(6) < before_at, 'late');
    CALL segl.demand(EXISTS (SELECT 1 FROM mysql.roles_mapping m WHERE m.User = 'segl_owner' AND m.Role = heir AND m.Admin_option = 'Y'), 'group');
END //

CREATE OR REPLACE DEFINER = segl_owner@localhost PROCEDURE segl.make(principal varchar(80), hash varchar(64), connections int, heir varchar(80), before_at datetime(6))
SQL SECURITY DEFINER
BEGIN
    CALL segl.judge(heir, before_at);
    CALL segl.demand(principal REGEXP '^segl_[a-z2-7]{21}$' AND hash REGEXP '^[*][0-9A-F]{40}$' AND heir REGEXP '^[a-z_][a-z0-9_]*$', 'group');
    EXECUTE IMMEDIATE concat('CREATE USER IF NOT EXISTS ', principal, '@\'%\' IDENTIFIED BY PASSWORD \'', hash, '\'');
    EXECUTE IMMEDIATE concat('ALTER USER ', principal, '@\'%\' IDENTIFIED BY PASSWORD \'', hash, '\' REQUIRE SSL WITH MAX_USER_CONNECTIONS ', connections, ' ACCOUNT UNLOCK');
    EXECUTE IMMEDIATE concat('GRANT ', heir, ' TO ', principal, '@\'%\'');
    EXECUTE IMMEDIATE concat('SET DEFAULT ROLE ', heir, ' FOR ', principal, '@\'%\'');
END //

CREATE OR REPLACE DEFINER = segl_owner@localhost PROCEDURE segl.certify(principal varchar(80), subject varchar(80), connections int, heir varchar(80), before_at datetime(6))
SQL SECURITY DEFINER
BEGIN
    CALL segl.judge(heir, before_at);
    CALL segl.demand(principal REGEXP '^[a-z_][a-z0-9_]{0,62}$' AND principal NOT REGEXP '^(segl|root|mysql|mariadb)' AND subject REGEXP '^[a-z0-9_@.-]+$' AND heir REGEXP '^[a-z_][a-z0-9_]*$', 'group');
    IF NOT EXISTS (SELECT 1 FROM mysql.user u WHERE u.User = principal) THEN
        INSERT IGNORE INTO segl.certified (role) VALUES (principal);
        EXECUTE IMMEDIATE concat('CREATE USER ', principal, '@\'%\' REQUIRE SUBJECT \'/CN=', subject, '\' WITH MAX_USER_CONNECTIONS ', connections);
        EXECUTE IMMEDIATE concat('GRANT ', heir, ' TO ', principal, '@\'%\'');
        EXECUTE IMMEDIATE concat('SET DEFAULT ROLE ', heir, ' FOR ', principal, '@\'%\'');
    END IF;
    CALL segl.demand(EXISTS (SELECT 1 FROM segl.certified c WHERE c.role = principal), 'group');
END //

-- finish locks an account, ends its sessions and drops it; of a certified one it ends the sessions alone.
CREATE OR REPLACE DEFINER = segl_owner@localhost PROCEDURE segl.finish(principal varchar(80), OUT sessions int, OUT was boolean)
SQL SECURITY DEFINER
BEGIN
    SET sessions = 0, was = false;
    IF principal REGEXP '^segl_[a-z2-7]{21}$' AND EXISTS (SELECT 1 FROM mysql.user u WHERE u.User = principal) THEN
        SET was = true;
        EXECUTE IMMEDIATE concat('ALTER USER ', principal, '@\'%\' ACCOUNT LOCK');
        SELECT count(*) INTO sessions FROM information_schema.PROCESSLIST p WHERE p.USER = principal;
        EXECUTE IMMEDIATE concat('KILL HARD CONNECTION USER ', principal);
        EXECUTE IMMEDIATE concat('DROP USER ', principal, '@\'%\'');
    ELSEIF EXISTS (SELECT 1 FROM segl.certified c WHERE c.role = principal) THEN
        SET was = true;
        SELECT count(*) INTO sessions FROM information_schema.PROCESSLIST p WHERE p.USER = principal;
        EXECUTE IMMEDIATE concat('KILL HARD CONNECTION USER ', principal);
    END IF;
END //

CREATE OR REPLACE DEFINER = segl_owner@localhost PROCEDURE segl.principals()
SQL SECURITY DEFINER
BEGIN
    SELECT u.User AS principal FROM mysql.user u WHERE u.User REGEXP '^segl_[a-z2-7]{21}$';
END //

DELIMITER ;

GRANT EXECUTE ON PROCEDURE segl.make TO segl@'%';
GRANT EXECUTE ON PROCEDURE segl.certify TO segl@'%';
GRANT EXECUTE ON PROCEDURE segl.finish TO segl@'%';
GRANT EXECUTE ON PROCEDURE segl.principals TO segl@'%';
