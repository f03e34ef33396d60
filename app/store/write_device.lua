-- Writes a device's record, or removes it, and in the same step revokes its tokens and applications where that is meant.
-- The epoch only rises, and never falls behind Redis's clock: removing and adding again cannot bring an old one back.
-- Not to be sent again blindly: the second answer is 'conflict'.
--
-- `read_epoch`: of the record that the caller read; '': there must be none
-- `record`: the new one; '': remove it
-- `revokes`: '1': revoke everything that the device holds
-- `previous_key`: the key before this one, sealed, while it is still valid; '': only the new key is
-- Returns {'conflict'} | {'done', epoch, how many tokens and applications were revoked}.

local device, devices, device_index = unpack(KEYS)
local client_id, read_epoch, record, sealed_key, revokes, previous_key,
  actor, request_id, event, detail = unpack(ARGV, 2)

local epoch = redis.call('HGET', device, 'epoch')
if (epoch or '') ~= read_epoch then
  return {'conflict'}
end

local revoked
if revokes == '1' then
  revoked = revoke(redis.call('ZRANGE', device_index, 0, -1),
    {priority = PRIORITY_OPERATOR, who = actor, request_id = request_id})
end

audit{who = actor, request_id = request_id, what = event, client_id = client_id, detail = detail, revoked = revoked}
if record == '' then
  redis.call('DEL', device)
  redis.call('ZREM', devices, client_id)
  return {'done', '0', revoked or 0}
end

local new_epoch = string.format('%.0f', math.max(now_us(), (tonumber(epoch) or 0) + 1))
redis.call('HSET', device, 'epoch', new_epoch, 'record', record, 'key', sealed_key)
if previous_key == '' then
  redis.call('HDEL', device, 'previous')
else
  redis.call('HSET', device, 'previous', previous_key)
end
redis.call('ZADD', devices, 0, client_id)
return {'done', new_epoch, revoked or 0}
