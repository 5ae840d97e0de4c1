import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import org.h2.mvstore.MVStore;

/** A MongoDB-wire server on loopback over one H2 file. Arguments: file, port, commit interval in ms. */
public final class MongoMain {
    public static void main(String[] args) {
        MVStore store = new MVStore.Builder().fileName(args[0]).open();
        // H2 writes once a second by itself; mongod's journal is the model: see provisioner.py.
        store.setAutoCommitDelay(Integer.parseInt(args[2]));
        MongoServer server = new MongoServer(new H2Backend(store));
        server.bind("127.0.0.1", Integer.parseInt(args[1]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        System.out.println("ready " + server.getConnectionString());
    }
}
