import { TestEnvironment } from "leveros/testing";
import { context, handOver } from "leveros";
class Room { s: string; m: string; constructor(_: string, s: string|undefined, m: string){this.s=s??""; this.m=m;} set(n: number){this.s="x".repeat(n);} where(){return [context().instance, context().epoch, this.m, this.s.length]} [handOver](){ return this.s; } }
for (const n of [300000]) {
await using env = await TestEnvironment.start({ chat: { resource: Room, instances: 3 } }, { onError: (e) => console.log("error", e) });
const room = env.client.resource<Room>("chat","room-7");
const t=()=>Math.round(performance.now());
await room.set(n); 
const t0=t();
await env.stop(await env.holderOf("chat","room-7")); const t1=t()-t0;
console.log(n, await room.where(), t1, t()-t0);
}
